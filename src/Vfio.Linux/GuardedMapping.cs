namespace Vfio.Linux;

/// <summary>A shared mapping of a peer's memory file, with unmapped pages on both sides: running over either end is a fault at
/// once, not damage elsewhere. Kept out of forked children and core dumps.</summary>
/// <remarks>Whoever keeps <see cref="Address"/> beyond this object's life reads or writes freed memory.</remarks>
public sealed class GuardedMapping : IDisposable
{
    private readonly PeerMappings _owner;
    private readonly nuint _reserved;
    private readonly nint _watch;
    private nint _reservation;

    private GuardedMapping(PeerMappings owner, nint reservation, nuint reserved, nint watch, nint address, ulong length)
    {
        _owner = owner;
        _reservation = reservation;
        _reserved = reserved;
        _watch = watch;
        Address = address;
        Length = length;
    }

    /// <summary>The first byte.</summary>
    public nint Address { get; }

    /// <summary>Bytes.</summary>
    public ulong Length { get; }

    /// <summary>Maps part of a file, readable and writable.</summary>
    /// <param name="file">The file.</param>
    /// <param name="range">Which part; at least 1 byte, and whole pages of it in the kernel.</param>
    /// <param name="pageSize">Bytes of the backing's page, a power of two: the alignment that it needs.</param>
    /// <param name="owner">Whose memory it is: bears what it takes, and learns when it is lost. Null: nobody.</param>
    /// <returns>The mapping.</returns>
    /// <exception cref="LinuxException">mmap(2) failed, or the owner may not have it.</exception>
    public static unsafe GuardedMapping Map(FileDescriptor file, FileRange range, ulong pageSize, PeerMappings? owner = null)
    {
        ArgumentNullException.ThrowIfNull(file);
        ArgumentOutOfRangeException.ThrowIfZero(range.Length, nameof(range));
        owner ??= PeerMappings.Unowned;
        ulong first = range.Offset & ~(pageSize - 1);
        nuint mapped = checked((nuint)((range.Offset - first + range.Length + pageSize - 1) & ~(pageSize - 1)));
        // One page before (with what alignment takes), one page after.
        nuint reserved = checked(mapped + (nuint)(3 * pageSize));
        var room = new MappingLimits(reserved, 3);
        owner.Charge(room);
        nint reservation = LibC.mmap(
            0, reserved, Mman.PROT_NONE, Mman.MAP_PRIVATE | Mman.MAP_ANONYMOUS | Mman.MAP_NORESERVE, -1, 0);
        if (reservation == -1)
        {
            var errno = (Errno)LibC.errno;
            owner.Refund(room);
            throw new LinuxException("mmap", errno, $"{reserved} bytes of address space");
        }

        try
        {
            nint address = (nint)(((nuint)reservation + (nuint)((2 * pageSize) - 1)) & ~(nuint)(pageSize - 1));
            // MAP_FIXED replaces pages of our own reservation only: address + mapped + pageSize <= reservation + reserved.
            if (LibC.mmap(
                address, mapped, Mman.PROT_READ | Mman.PROT_WRITE, Mman.MAP_SHARED | Mman.MAP_FIXED, file.Number, checked((long)first)) == -1)
            {
                throw new LinuxException("mmap", (Errno)LibC.errno, $"{mapped} bytes of a peer's memory file, pages of {pageSize} bytes");
            }

            // Advice: a kernel that cannot follow it leaves the mapping as good as before.
            _ = LibC.madvise(address, mapped, Mman.MADV_DONTFORK);
            _ = LibC.madvise(address, mapped, Mman.MADV_DONTDUMP);
            nint watch = owner.Watch(address, mapped, pageSize);
            return new GuardedMapping(owner, reservation, reserved, watch, address + (nint)(range.Offset - first), range.Length);
        }
        catch
        {
            _ = LibC.munmap(reservation, reserved);
            owner.Refund(room);
            throw;
        }
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
        PeerMappings.Unwatch(_watch);
        if (LibC.munmap(reservation, _reserved) < 0)
        {
            throw new LinuxException("munmap", (Errno)LibC.errno, $"0x{reservation:x}, {_reserved} bytes");
        }

        _owner.Refund(new MappingLimits(_reserved, 3));
    }
}
