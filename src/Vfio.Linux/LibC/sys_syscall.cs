using System.Runtime.InteropServices;

namespace Vfio.Linux;

// syscall(2), for calls that glibc has no function for: mbind(2), and io_submit(2) with its kin. Variadic in C; see ioctl for why a fixed signature is safe.
internal static unsafe partial class LibC
{
    [LibraryImport("libc", SetLastError = true)]
    public static partial nint syscall(nint number, nint a, nint b, nint c, nint d, nint e, nint f);
}

// The numbers of x86-64.
[Header("asm/unistd.h")]
internal static class Unistd
{
    public const int __NR_io_setup = 206;
    public const int __NR_io_getevents = 208;
    public const int __NR_io_submit = 209;
    public const int __NR_mbind = 237;
}

[Header("linux/mempolicy.h")]
internal static class Mempolicy
{
    public const int MPOL_PREFERRED = 1;
}
