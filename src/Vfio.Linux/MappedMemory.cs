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
    public ulong Length { get; }

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
