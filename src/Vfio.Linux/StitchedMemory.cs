namespace Vfio.Linux;

/// <summary>A second view of shared memory that puts pieces side by side that are not neighbours where they are mapped, with
/// unmapped pages on both sides. Disposing takes the view away; the pieces stay.</summary>
/// <remarks>Whoever keeps <see cref="Address"/> beyond this object's life reads or writes freed memory.</remarks>
public sealed unsafe class StitchedMemory : IDisposable
{
    private const ulong Page = 4096;

    private readonly nuint _reserved;
    private nint _reservation;

    private StitchedMemory(nint reservation, nuint reserved, nint address)
    {
        _reservation = reservation;
        _reserved = reserved;
        Address = address;
    }

    /// <summary>The first byte of the first piece.</summary>
    public nint Address { get; }

    /// <summary>Makes the view.</summary>
    /// <param name="pieces">Parts of shared mappings. All but the first begin, and all but the last end, at a page's border.</param>
    /// <returns>The view.</returns>
    /// <exception cref="LinuxException">A piece does not begin or end so (EINVAL), its pages are larger than 4 KiB and it is not
    /// made of whole ones, or the kernel would not map it.</exception>
    public static StitchedMemory Make(params ReadOnlySpan<(nint Address, ulong Length)> pieces)
    {
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
        nint reservation = LibC.mmap(
            0, reserved, Mman.PROT_NONE, Mman.MAP_PRIVATE | Mman.MAP_ANONYMOUS | Mman.MAP_NORESERVE, -1, 0);
        if (reservation == -1)
        {
            throw new LinuxException("mmap", (Errno)LibC.errno, $"{reserved} bytes of address space");
        }

        nint next = reservation + (nint)Page;
        foreach ((nint address, ulong length) in pieces)
        {
            ulong first = AlignDown((ulong)address);
            ulong bytes = AlignUp((ulong)address + length) - first;
            // mremap(2): an old size of 0 leaves a shared mapping where it is and maps its pages a second time. The target is our
            // own reservation, total bytes of it in all.
            if (LibC.mremap((nint)first, 0, (nuint)bytes, Mman.MREMAP_MAYMOVE | Mman.MREMAP_FIXED, next) == -1)
            {
                var errno = (Errno)LibC.errno;
                _ = LibC.munmap(reservation, reserved);
                throw new LinuxException("mremap", errno, $"{bytes} bytes at 0x{first:x}");
            }

            next += (nint)bytes;
        }

        // Advice, as for the pieces themselves.
        _ = LibC.madvise(reservation + (nint)Page, (nuint)total, Mman.MADV_DONTFORK);
        _ = LibC.madvise(reservation + (nint)Page, (nuint)total, Mman.MADV_DONTDUMP);
        return new StitchedMemory(
            reservation, reserved, reservation + (nint)Page + (nint)((ulong)pieces[0].Address % Page));
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

    private static ulong AlignDown(ulong address) => address / Page * Page;

    private static ulong AlignUp(ulong address) => (address + Page - 1) / Page * Page;
}
