namespace Vfio.Linux;

/// <summary>A shared mapping of a peer's memory file, with unmapped pages on both sides: running over either end is a fault at
/// once, not damage elsewhere. Kept out of forked children and core dumps.</summary>
/// <remarks>Whoever keeps <see cref="Address"/> beyond this object's life reads or writes freed memory.</remarks>
public sealed class GuardedMapping : IDisposable
{
    private readonly nuint _reserved;
    private nint _reservation;

    private GuardedMapping(nint reservation, nuint reserved, nint address, ulong length)
    {
        _reservation = reservation;
        _reserved = reserved;
        Address = address;
        Length = length;
    }

    /// <summary>The first byte.</summary>
    public nint Address { get; }

    /// <summary>Bytes.</summary>
    public ulong Length { get; }

    /// <summary>Maps the start of a file, readable and writable.</summary>
    /// <param name="file">The file.</param>
    /// <param name="length">Bytes, at least 1; rounded up to whole pages in the kernel.</param>
    /// <param name="pageSize">Bytes of the backing's page, a power of two: the alignment that it needs.</param>
    /// <returns>The mapping.</returns>
    /// <exception cref="LinuxException">mmap(2) failed.</exception>
    public static unsafe GuardedMapping Map(FileDescriptor file, ulong length, ulong pageSize)
    {
        ArgumentNullException.ThrowIfNull(file);
        ArgumentOutOfRangeException.ThrowIfZero(length);
        nuint mapped = checked((nuint)((length + pageSize - 1) & ~(pageSize - 1)));
        // One page before (with what alignment takes), one page after.
        nuint reserved = checked(mapped + (nuint)(3 * pageSize));
        nint reservation = LibC.mmap(
            0, reserved, Mman.PROT_NONE, Mman.MAP_PRIVATE | Mman.MAP_ANONYMOUS | Mman.MAP_NORESERVE, -1, 0);
        if (reservation == -1)
        {
            throw new LinuxException("mmap", (Errno)LibC.errno, $"{reserved} bytes of address space");
        }

        nint address = (nint)(((nuint)reservation + (nuint)((2 * pageSize) - 1)) & ~(nuint)(pageSize - 1));
        // MAP_FIXED replaces pages of our own reservation only: address + mapped + pageSize <= reservation + reserved.
        if (LibC.mmap(address, mapped, Mman.PROT_READ | Mman.PROT_WRITE, Mman.MAP_SHARED | Mman.MAP_FIXED, file.Number, 0) == -1)
        {
            var errno = (Errno)LibC.errno;
            _ = LibC.munmap(reservation, reserved);
            throw new LinuxException("mmap", errno, $"{mapped} bytes of a peer's memory file, pages of {pageSize} bytes");
        }

        var mapping = new GuardedMapping(reservation, reserved, address, length);
        // Advice: a kernel that cannot follow it leaves the mapping as good as before.
        _ = LibC.madvise(address, mapped, Mman.MADV_DONTFORK);
        _ = LibC.madvise(address, mapped, Mman.MADV_DONTDUMP);
        return mapping;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        nint reservation = Interlocked.Exchange(ref _reservation, 0);
        if (reservation != 0)
        {
            Unmap(reservation);
        }
    }

    private void Unmap(nint reservation)
    {
        if (LibC.munmap(reservation, _reserved) < 0)
        {
            throw new LinuxException("munmap", (Errno)LibC.errno, $"0x{reservation:x}, {_reserved} bytes");
        }
    }
}
