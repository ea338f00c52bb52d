namespace Vfio.Linux;

/// <summary>Owns one mmap(2): base, length, and the page size of what backs it. Disposing unmaps it.</summary>
/// <remarks>Whoever keeps <see cref="Address"/> beyond this object's life reads or writes freed memory; for memory that a device
/// or a poller may touch, the owner ends that use first. Not excluded from fork: call <see cref="ExcludeFromFork"/> for DMA.</remarks>
public sealed class MappedMemory : IDisposable
{
    private readonly IKernel _kernel;
    private nint _address;

    private MappedMemory(IKernel kernel, nint address, ulong length, ulong pageSize)
    {
        _kernel = kernel;
        _address = address;
        Length = length;
        PageSize = pageSize;
    }

    /// <summary>The first byte.</summary>
    /// <exception cref="ObjectDisposedException">It was unmapped.</exception>
    public nint Address
    {
        get
        {
            ObjectDisposedException.ThrowIf(_address == 0, this);
            return _address;
        }
    }

    /// <summary>Bytes.</summary>
    public ulong Length { get; private set; }

    /// <summary>Bytes of one page of the backing (4 KiB, 2 MiB or 1 GiB).</summary>
    public ulong PageSize { get; }

    /// <summary>Maps part of a file, shared.</summary>
    /// <param name="file">The file: a memfd, or a device region.</param>
    /// <param name="offset">Where it starts in the file, a multiple of <paramref name="pageSize"/>.</param>
    /// <param name="length">Bytes, a multiple of <paramref name="pageSize"/>.</param>
    /// <param name="writable">Whether stores are allowed.</param>
    /// <param name="pageSize">The backing's page size in bytes.</param>
    /// <param name="kernel">The kernel to ask; the running one by default.</param>
    /// <returns>The mapping.</returns>
    /// <exception cref="LinuxException">mmap(2) failed.</exception>
    public static MappedMemory Map(
        FileDescriptor file, long offset, ulong length, bool writable, ulong pageSize = 4096, IKernel? kernel = null)
    {
        ArgumentNullException.ThrowIfNull(file);
        kernel ??= LinuxKernel.Instance;
        int protection = Mman.PROT_READ | (writable ? Mman.PROT_WRITE : 0);
        nint address = kernel.Mmap(checked((nuint)length), protection, Mman.MAP_SHARED, file.Number, offset);
        return IsError(address)
            ? throw new LinuxException("mmap", (Errno)(-address), $"{length} bytes at offset 0x{offset:x}")
            : new MappedMemory(kernel, address, length, pageSize);
    }

    /// <summary>Maps zeroed private memory that belongs to no file.</summary>
    /// <param name="length">Bytes, a multiple of 4 KiB.</param>
    /// <returns>The mapping, 4 KiB pages unless the kernel is told otherwise.</returns>
    /// <exception cref="LinuxException">mmap(2) failed.</exception>
    public static MappedMemory Anonymous(ulong length)
    {
        nint address = LinuxKernel.Instance.Mmap(
            checked((nuint)length), Mman.PROT_READ | Mman.PROT_WRITE, Mman.MAP_PRIVATE | Mman.MAP_ANONYMOUS, -1, 0);
        return IsError(address)
            ? throw new LinuxException("mmap", (Errno)(-address), $"{length} bytes of anonymous memory")
            : new MappedMemory(LinuxKernel.Instance, address, length, 4096);
    }

    /// <summary>Maps memory at an address that is a multiple of <paramref name="alignment"/>: transparent huge pages need that, and kernels
    /// before 6.7 do not see to it themselves.</summary>
    /// <param name="file">A memfd to map shared from its start, or null for private memory of no file.</param>
    /// <param name="length">Bytes, a multiple of <paramref name="pageSize"/>.</param>
    /// <param name="pageSize">The backing's page size in bytes.</param>
    /// <param name="alignment">Bytes, a power of two of at least <paramref name="pageSize"/>.</param>
    internal static MappedMemory MapAligned(FileDescriptor? file, ulong length, ulong pageSize, ulong alignment)
    {
        // Address space for the length and the alignment is reserved first; the aligned middle is then replaced, and the ends given back.
        ulong span = checked(length + alignment);
        nint reserved = LibC.mmap(0, checked((nuint)span), Mman.PROT_NONE, Mman.MAP_PRIVATE | Mman.MAP_ANONYMOUS | Mman.MAP_NORESERVE, -1, 0);
        if (reserved == -1)
        {
            throw new LinuxException("mmap", (Errno)LibC.errno, $"{span} bytes of address space");
        }

        ulong start = (ulong)reserved;
        ulong aligned = (start + alignment - 1) & ~(alignment - 1);
        int flags = Mman.MAP_FIXED | (file is null ? Mman.MAP_PRIVATE | Mman.MAP_ANONYMOUS : Mman.MAP_SHARED);
        nint address = LibC.mmap((nint)aligned, (nuint)length, Mman.PROT_READ | Mman.PROT_WRITE, flags, file?.Number ?? -1, 0);
        if (address == -1)
        {
            var errno = (Errno)LibC.errno;
            _ = LibC.munmap(reserved, (nuint)span);
            throw new LinuxException("mmap", errno, $"{length} bytes aligned to {alignment}");
        }

        if (aligned > start)
        {
            _ = LibC.munmap(reserved, (nuint)(aligned - start));
        }

        _ = LibC.munmap((nint)(aligned + length), (nuint)(start + span - aligned - length));
        return new MappedMemory(LinuxKernel.Instance, address, length, pageSize);
    }

    /// <summary>Unmaps the end of the mapping; pages of a memfd there are given back to the system too.</summary>
    /// <param name="length">Bytes that stay, a multiple of the page size, more than none.</param>
    /// <param name="shared">Whether it maps a memfd.</param>
    internal void Truncate(ulong length, bool shared)
    {
        ArgumentOutOfRangeException.ThrowIfZero(length);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(length, Length);
        if (length == Length)
        {
            return;
        }

        if (shared)
        {
            Advise(Mman.MADV_REMOVE, "MADV_REMOVE", length, Length - length);
        }

        int result = _kernel.Munmap(Address + (nint)length, (nuint)(Length - length));
        if (result < 0)
        {
            throw new LinuxException("munmap", (Errno)(-result), $"the last {Length - length} of {Length} bytes");
        }

        Length = length;
    }

    /// <summary>Asks that pages not made yet come from a NUMA node where it has any left (MPOL_PREFERRED).</summary>
    /// <param name="node">The node; only 0 to 63 are known.</param>
    /// <returns><see cref="Errno.None"/>, or why the kernel would not.</returns>
    internal unsafe Errno PreferNode(int node)
    {
        if (node is < 0 or > 63)
        {
            // As the kernel says of one that there is not.
            return Errno.EINVAL;
        }

        if (System.Runtime.InteropServices.RuntimeInformation.ProcessArchitecture != System.Runtime.InteropServices.Architecture.X64)
        {
            return Errno.ENOSYS;
        }

        ulong mask = 1ul << node;
        // SAFETY: the kernel reads one word, a local. It takes maxnode as one more than the bits that it reads (get_nodes).
        nint result = LibC.syscall(Unistd.__NR_mbind, Address, (nint)Length, Mempolicy.MPOL_PREFERRED, (nint)(&mask), 65, 0);
        return result < 0 ? (Errno)LibC.errno : Errno.None;
    }

    /// <summary>Keeps the pages out of a forked child (MADV_DONTFORK), so that copy-on-write never moves a page away from the
    /// device that has it pinned.</summary>
    /// <exception cref="LinuxException">madvise(2) failed.</exception>
    public void ExcludeFromFork() => Advise(Mman.MADV_DONTFORK, "MADV_DONTFORK", 0, Length);

    /// <summary>Gives the kernel advice about part of the mapping.</summary>
    internal void Advise(int advice, string name, ulong offset, ulong length)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(offset, Length);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(length, Length - offset);
        while (LibC.madvise(Address + (nint)offset, (nuint)length, advice) < 0)
        {
            var errno = (Errno)LibC.errno;
            if (errno is not (Errno.EINTR or Errno.EAGAIN))
            {
                throw new LinuxException($"madvise({name})", errno, $"{length} bytes at offset 0x{offset:x}");
            }
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        nint address = Interlocked.Exchange(ref _address, 0);
        if (address != 0)
        {
            Unmap(address);
        }
    }

    private void Unmap(nint address)
    {
        int result = _kernel.Munmap(address, checked((nuint)Length));
        if (result < 0)
        {
            throw new LinuxException("munmap", (Errno)(-result), $"0x{address:x}, {Length} bytes");
        }
    }

    // mmap(2) returns an address or a value from -4095 to -1.
    private static bool IsError(nint address) => address is < 0 and >= -4095;
}
