namespace Vfio.Linux;

/// <summary>A second view of shared memory that puts pieces side by side that are not neighbours where they are mapped, with
/// unmapped pages on both sides. Disposing takes the view away; the pieces stay.</summary>
/// <remarks>Whoever keeps <see cref="Address"/> beyond this object's life reads or writes freed memory.</remarks>
public sealed unsafe class StitchedMemory : IDisposable
{
    private const ulong Page = 4096;

    private readonly PeerMappings _owner;
    private readonly MappingLimits _room;
    private readonly nint _watch;
    private nint _reservation;

    private StitchedMemory(PeerMappings owner, MappingLimits room, nint reservation, nint watch, nint address)
    {
        _owner = owner;
        _room = room;
        _reservation = reservation;
        _watch = watch;
        Address = address;
    }

    /// <summary>The first byte of the first piece.</summary>
    public nint Address { get; }

    /// <summary>Makes a view of memory that is nobody's in particular.</summary>
    /// <param name="pieces">As for <see cref="Make(PeerMappings, ReadOnlySpan{ValueTuple{nint, ulong}})"/>.</param>
    /// <returns>The view.</returns>
    /// <exception cref="LinuxException">As there.</exception>
    public static StitchedMemory Make(params ReadOnlySpan<(nint Address, ulong Length)> pieces) => Make(PeerMappings.Unowned, pieces);

    /// <summary>Makes the view.</summary>
    /// <param name="owner">Whose memory it is: bears what the view takes, and learns when it is lost.</param>
    /// <param name="pieces">Parts of shared mappings. All but the first begin, and all but the last end, at a page's border.</param>
    /// <returns>The view.</returns>
    /// <exception cref="LinuxException">A piece does not begin or end so (EINVAL), its pages are larger than 4 KiB and it is not
    /// made of whole ones, the owner may not have it, or the kernel would not map it.</exception>
    public static StitchedMemory Make(PeerMappings owner, params ReadOnlySpan<(nint Address, ulong Length)> pieces)
    {
        ArgumentNullException.ThrowIfNull(owner);
        ulong total = 0;
        for (int i = 0; i < pieces.Length; i++)
        {
            ulong first = (ulong)pieces[i].Address;
            ulong end = first + pieces[i].Length;
            if ((i != 0 && first % Page != 0) || (i != pieces.Length - 1 && end % Page != 0))
            {
                throw new LinuxException(
                    "mremap", Errno.EINVAL, $"{pieces[i].Length} bytes at 0x{first:x}", "they do not end where a page does");
            }

            total += AlignUp(end) - AlignDown(first);
        }

        nuint reserved = checked((nuint)(total + (2 * Page)));
        var room = new MappingLimits(reserved, pieces.Length + 2);
        owner.Charge(room);
        nint reservation = LibC.mmap(
            0, reserved, Mman.PROT_NONE, Mman.MAP_PRIVATE | Mman.MAP_ANONYMOUS | Mman.MAP_NORESERVE, -1, 0);
        if (reservation == -1)
        {
            var errno = (Errno)LibC.errno;
            owner.Refund(room);
            throw new LinuxException("mmap", errno, $"{reserved} bytes of address space");
        }

        nint next = reservation + (nint)Page;
        ulong lost = 0;
        try
        {
            foreach ((nint address, ulong length) in pieces)
            {
                ulong first = AlignDown((ulong)address);
                ulong bytes = AlignUp((ulong)address + length) - first;
                // mremap(2): an old size of 0 leaves a shared mapping where it is and maps its pages a second time. Somewhere first, where
                // a piece of which that cannot be had (private, or of larger pages) does no harm.
                nint copy = LibC.mremap((nint)first, 0, (nuint)bytes, Mman.MREMAP_MAYMOVE, 0);
                if (copy == -1)
                {
                    throw new LinuxException("mremap", (Errno)LibC.errno, $"{bytes} bytes at 0x{first:x}");
                }

                // The target is our own reservation, total bytes of it in all.
                if (LibC.mremap(copy, (nuint)bytes, (nuint)bytes, Mman.MREMAP_MAYMOVE | Mman.MREMAP_FIXED, next) == -1)
                {
                    var errno = (Errno)LibC.errno;
                    lost = bytes;
                    _ = LibC.munmap(copy, (nuint)bytes);
                    throw new LinuxException("mremap", errno, $"{bytes} bytes to 0x{next:x}");
                }

                next += (nint)bytes;
            }

            // Advice, as for the pieces themselves.
            _ = LibC.madvise(reservation + (nint)Page, (nuint)total, Mman.MADV_DONTFORK);
            _ = LibC.madvise(reservation + (nint)Page, (nuint)total, Mman.MADV_DONTDUMP);
            nint watch = owner.Watch(reservation + (nint)Page, (nuint)total, Page);
            return new StitchedMemory(
                owner, room, reservation, watch, reservation + (nint)Page + (nint)((ulong)pieces[0].Address % Page));
        }
        catch
        {
            // A move that fails has taken away what was at its target (mremap_to), and another thread may have mapped something there since:
            // that part is not ours any more.
            nint rest = next + (nint)lost;
            _ = LibC.munmap(reservation, (nuint)(next - reservation));
            _ = LibC.munmap(rest, reserved - (nuint)(rest - reservation));
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
        if (LibC.munmap(reservation, (nuint)_room.Bytes) < 0)
        {
            throw new LinuxException("munmap", (Errno)LibC.errno, $"0x{reservation:x}, {_room.Bytes} bytes");
        }

        _owner.Refund(_room);
    }

    private static ulong AlignDown(ulong address) => address / Page * Page;

    private static ulong AlignUp(ulong address) => (address + Page - 1) / Page * Page;
}
