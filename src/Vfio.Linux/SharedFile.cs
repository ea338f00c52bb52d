namespace Vfio.Linux;

/// <summary>What the kernel says about a memory file that a peer sent: nothing in it is the peer's word.</summary>
/// <param name="Size">Bytes in the file now.</param>
/// <param name="PageSize">Bytes of a page of its backing: 4 KiB, or the huge page size of hugetlbfs.</param>
/// <param name="IsMemory">Whether it is a file of memory (memfd, tmpfs, hugetlbfs), and not a device, a pipe, a socket, or a file
/// of a file system whose server could let us wait for a page for ever (FUSE, NFS).</param>
/// <param name="CannotShrink">Whether it is sealed against shrinking (F_SEAL_SHRINK). Where it is not, its owner can take pages
/// away under a mapping, and the next access is a SIGBUS.</param>
public readonly record struct SharedFile(ulong Size, ulong PageSize, bool IsMemory, bool CannotShrink)
{
    /// <summary>Asks about a descriptor.</summary>
    /// <param name="file">The descriptor.</param>
    /// <returns>The answer; all zero for what is no memory.</returns>
    /// <exception cref="LinuxException">statx(2) failed.</exception>
    public static unsafe SharedFile Of(FileDescriptor file)
    {
        ArgumentNullException.ThrowIfNull(file);
        // mm/memfd.c: F_GET_SEALS fails with EINVAL on what is neither shmem nor hugetlbfs. It asks no file system, as statx does:
        // one of the peer's own making need never answer.
        int seals = LibC.fcntl(file.Number, Fcntl.F_GET_SEALS, 0);
        if (seals < 0)
        {
            return default;
        }

        statx status;
        // SAFETY: a local of the size that the call fills.
        if (LibC.statx(file.Number, string.Empty, StatFlags.AT_EMPTY_PATH, Stat.STATX_BASIC_STATS, &status) < 0)
        {
            throw new LinuxException("statx", (Errno)LibC.errno, "a received descriptor");
        }

        // fs/hugetlbfs/inode.c and mm/shmem.c: the preferred block size is the page size, except that a shmem mount with
        // huge pages reports those, which mmap does not insist on.
        return new SharedFile(
            status.stx_size,
            Math.Max(4096u, status.stx_blksize),
            (status.stx_mode & Stat.S_IFMT) == Stat.S_IFREG,
            (seals & Fcntl.F_SEAL_SHRINK) != 0);
    }
}
