using Vfio.Linux;

namespace Vfio.VhostUser;

/// <summary>One region of a guest's memory, mapped here. Disposing unmaps it: only once nobody can still hold a pointer into
/// it (<see cref="GracePeriod"/>).</summary>
public sealed class GuestMemoryRegion : IDisposable
{
    private readonly GuardedMapping _mapping;

    private GuestMemoryRegion(
        GuestPhysicalAddress guest, FrontendAddress frontend, ulong length, GuardedMapping mapping, HostAddress host)
    {
        Guest = guest;
        Frontend = frontend;
        Length = length;
        Host = host;
        _mapping = mapping;
    }

    /// <summary>Its first byte as the guest numbers it.</summary>
    public GuestPhysicalAddress Guest { get; }

    /// <summary>Its first byte in the front-end's address space.</summary>
    public FrontendAddress Frontend { get; }

    /// <summary>Its first byte here.</summary>
    public HostAddress Host { get; }

    /// <summary>Bytes, at least 1; none of the three address ranges wraps.</summary>
    public ulong Length { get; }

    /// <summary>Whether the front-end could take the memory away under us, which ends its session: the file is not sealed against
    /// shrinking.</summary>
    public bool CanShrink { get; private init; }

    /// <summary>Maps what a front-end announced, after checking it against the file itself.</summary>
    /// <param name="guest">First byte as the guest numbers it.</param>
    /// <param name="frontend">First byte in the front-end's address space.</param>
    /// <param name="length">Bytes.</param>
    /// <param name="file">The memory file; stays the caller's, who may close it.</param>
    /// <param name="fileOffset">Where the region starts in the file.</param>
    /// <param name="owner">Whose memory it is; null: nobody's.</param>
    /// <returns>The region.</returns>
    /// <exception cref="VhostUserProtocolException">The announcement is wrong: it wraps, is empty, or reaches beyond the file.</exception>
    /// <exception cref="LinuxException">The kernel would not map it.</exception>
    public static GuestMemoryRegion Map(
        GuestPhysicalAddress guest, FrontendAddress frontend, ulong length, FileDescriptor file, FileOffset fileOffset,
        PeerMappings? owner = null)
    {
        string what = $"memory region {guest}, {length} bytes at offset {fileOffset} of its file";
        if (length == 0 || unchecked(guest.Value + (length - 1)) < guest.Value
            || unchecked(frontend.Value + (length - 1)) < frontend.Value
            || unchecked(fileOffset.Value + length) < length)
        {
            throw new VhostUserProtocolException($"{what}: it is empty or passes the end of an address space");
        }

        SharedFile backing = SharedFile.Of(file);
        if (!backing.IsMemory || fileOffset.Value + length > backing.Size)
        {
            // Mapping beyond the end of a file works; touching it is SIGBUS.
            throw new VhostUserProtocolException(
                $"{what}: the file is {(backing.IsMemory ? $"only {backing.Size} bytes long" : "not a file of memory")}");
        }

        GuardedMapping mapping = GuardedMapping.Map(file, new FileRange(fileOffset.Value, length), backing.PageSize, owner);
        return new GuestMemoryRegion(
            guest, frontend, length, mapping, new HostAddress((ulong)mapping.Address))
        {
            CanShrink = !backing.CannotShrink,
        };
    }

    /// <inheritdoc/>
    public void Dispose() => _mapping.Dispose();

    /// <inheritdoc/>
    public override string ToString() => $"{Guest}+0x{Length:x}";

    internal bool Overlaps(GuestMemoryRegion other) =>
        (Guest.Value <= other.Guest.Value + (other.Length - 1) && other.Guest.Value <= Guest.Value + (Length - 1))
        || (Frontend.Value <= other.Frontend.Value + (other.Length - 1)
            && other.Frontend.Value <= Frontend.Value + (Length - 1));
}
