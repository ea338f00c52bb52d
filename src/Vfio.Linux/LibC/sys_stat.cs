using System.Runtime.InteropServices;

namespace Vfio.Linux;

// statx(2): fstat(2) with a struct that is the same on every architecture.
internal static unsafe partial class LibC
{
    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    public static partial int statx(int dirfd, string pathname, int flags, uint mask, statx* buffer);
}

[Header("linux/stat.h")]
[StructLayout(LayoutKind.Explicit, Size = 256)]
internal struct statx
{
    [FieldOffset(0)]
    public uint stx_mask;

    [FieldOffset(4)]
    public uint stx_blksize;

    [FieldOffset(28)]
    public ushort stx_mode;

    [FieldOffset(40)]
    public ulong stx_size;
}

[Header("linux/stat.h")]
internal static class Stat
{
    public const uint STATX_BASIC_STATS = 0x7ff;
    public const int S_IFMT = 0xf000;
    public const int S_IFREG = 0x8000;
    public const int S_IFSOCK = 0xc000;
    public const int S_IFDIR = 0x4000;
    public const int S_IFIFO = 0x1000;
}

[Header("linux/fcntl.h")]
internal static class StatFlags
{
    public const int AT_FDCWD = -100;
    public const int AT_SYMLINK_NOFOLLOW = 0x100;
    public const int AT_EMPTY_PATH = 0x1000;
}
