using System.Runtime.InteropServices;

namespace Vfio.Linux;

// sched_setaffinity(2), sched_getaffinity(2): pid 0 is the calling thread.
internal static unsafe partial class LibC
{
    [LibraryImport("libc", SetLastError = true)]
    public static partial int sched_setaffinity(int pid, nuint cpusetsize, void* mask);

    [LibraryImport("libc", SetLastError = true)]
    public static partial int sched_getaffinity(int pid, nuint cpusetsize, void* mask);
}
