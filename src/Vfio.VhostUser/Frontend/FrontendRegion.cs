using Vfio.Linux;

namespace Vfio.VhostUser;

/// <summary>Memory that a front-end shares with its back-end: a memory file, mapped here.</summary>
/// <remarks>Whoever uses <see cref="Host"/> after disposal touches unmapped memory.</remarks>
public sealed class FrontendRegion : IDisposable
{
    private readonly MappedMemory _mapping;

    /// <summary>Makes a file and maps it.</summary>
    /// <param name="name">Shown in <c>/proc/PID/maps</c>.</param>
    /// <param name="guest">Where the guest has its first byte.</param>
    /// <param name="length">Bytes, a multiple of the page size.</param>
    /// <param name="hugePageSize">0 for ordinary pages, else 2 MiB or 1 GiB.</param>
    /// <param name="canShrink">Whether <see cref="Shrink"/> is going to be called.</param>
    /// <exception cref="LinuxException">There is no such memory.</exception>
    public FrontendRegion(
        string name, GuestPhysicalAddress guest, ulong length, ulong hugePageSize = 0, bool canShrink = false)
    {
        Guest = guest;
        Length = length;
        File = MemoryFile.Create(name, length, hugePageSize, canShrink);
        try
        {
            _mapping = MappedMemory.Map(File, 0, length, writable: true, hugePageSize == 0 ? 4096 : hugePageSize);
        }
        catch
        {
            File.Dispose();
            throw;
        }

        Host = new HostAddress((ulong)_mapping.Address);
    }

    /// <summary>The first byte as the guest numbers it.</summary>
    public GuestPhysicalAddress Guest { get; }

    /// <summary>Bytes.</summary>
    public ulong Length { get; }

    /// <summary>The first byte here.</summary>
    public HostAddress Host { get; }

    /// <summary>The first byte, as the protocol calls it. It is this process's address, to which the back-end gives no meaning.</summary>
    public FrontendAddress Frontend => new(Host.Value);

    internal FileDescriptor File { get; }

    /// <summary>Takes memory away from under the back-end, as a hostile front-end does. Whoever touches it in this process
    /// dies of it, but for a back-end.</summary>
    /// <param name="length">Bytes that stay.</param>
    /// <exception cref="LinuxException">It was made to stay.</exception>
    public void Shrink(ulong length)
    {
        if (LibC.ftruncate(File.Number, checked((long)length)) < 0)
        {
            throw new LinuxException("ftruncate", (Errno)LibC.errno, $"to {length} bytes");
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _mapping.Dispose();
        File.Dispose();
    }
}
