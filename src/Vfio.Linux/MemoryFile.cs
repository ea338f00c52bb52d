namespace Vfio.Linux;

/// <summary>A memfd: memory with a descriptor, so that it can be shared, named and kept from copy-on-write.</summary>
public static class MemoryFile
{
    /// <summary>Makes a file of <paramref name="length"/> bytes that cannot shrink or grow any more, unless that is asked for.</summary>
    /// <param name="name">Shown in <c>/proc/PID/maps</c> as <c>/memfd:NAME</c>.</param>
    /// <param name="length">Bytes, a multiple of the page size.</param>
    /// <param name="hugePageSize">0 for ordinary pages, else 2 MiB or 1 GiB: pages from the hugetlb pool.</param>
    /// <param name="canShrink">Whether it stays unsealed, for tests of what happens when it shrinks.</param>
    /// <returns>The descriptor.</returns>
    /// <exception cref="LinuxException">memfd_create(2), ftruncate(2) or fcntl(F_ADD_SEALS) failed.</exception>
    public static FileDescriptor Create(string name, ulong length, ulong hugePageSize = 0, bool canShrink = false)
    {
        uint flags = Mman.MFD_CLOEXEC | Mman.MFD_ALLOW_SEALING | hugePageSize switch
        {
            0 => 0,
            2ul << 20 => Mman.MFD_HUGETLB | Memfd.MFD_HUGE_2MB,
            1ul << 30 => Mman.MFD_HUGETLB | Memfd.MFD_HUGE_1GB,
            _ => throw new ArgumentOutOfRangeException(nameof(hugePageSize), hugePageSize, "0, 2 MiB or 1 GiB"),
        };
        int result = LibC.memfd_create(name, flags);
        if (result < 0)
        {
            throw new LinuxException("memfd_create", (Errno)LibC.errno, name);
        }

        var file = new FileDescriptor(LinuxKernel.Instance, result);
        if (LibC.ftruncate(file.Number, checked((long)length)) < 0)
        {
            var errno = (Errno)LibC.errno;
            file.Dispose();
            throw new LinuxException("ftruncate", errno, $"{name}, {length} bytes");
        }

        // A file that a peer could shrink would give us SIGBUS on pages that are gone.
        if (!canShrink && LibC.fcntl(file.Number, Fcntl.F_ADD_SEALS, Fcntl.F_SEAL_SHRINK | Fcntl.F_SEAL_GROW) < 0)
        {
            var errno = (Errno)LibC.errno;
            file.Dispose();
            throw new LinuxException("fcntl(F_ADD_SEALS)", errno, name);
        }

        return file;
    }
}
