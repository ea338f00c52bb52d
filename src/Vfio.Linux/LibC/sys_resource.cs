using System.Runtime.InteropServices;

namespace Vfio.Linux;

// getrlimit(2), setrlimit(2)
internal static unsafe partial class LibC
{
    [LibraryImport("libc", SetLastError = true)]
    public static partial int getrlimit(int resource, rlimit* rlim);

    [LibraryImport("libc", SetLastError = true)]
    public static partial int setrlimit(int resource, rlimit* rlim);
}

[Header("sys/resource.h")]
[StructLayout(LayoutKind.Sequential)]
internal struct rlimit
{
    public ulong rlim_cur;
    public ulong rlim_max;
}

[Header("sys/resource.h")]
internal static class Resource
{
    public const int RLIMIT_MEMLOCK = 8;
    public const int RLIMIT_NOFILE = 7;
    public const int RLIMIT_AS = 9;
    public const ulong RLIM_INFINITY = ulong.MaxValue;
}
