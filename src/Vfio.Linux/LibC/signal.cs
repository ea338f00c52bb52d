using System.Runtime.InteropServices;

namespace Vfio.Linux;

// signal(2)
internal static partial class LibC
{
    [LibraryImport("libc", SetLastError = true)]
    public static partial nint signal(int signum, nint handler);
}

[Header("signal.h")]
internal static class Signal
{
    public const int SIGPIPE = 13;
}
