using System.Globalization;
using System.Runtime.InteropServices;

namespace Vfio.VhostUser.Benchmarks;

/// <summary>How long processes and threads were on a processor.</summary>
internal static partial class ProcessorTime
{
    // linux/time.h.
    private const int ThreadProcessorTimeClock = 3;

    /// <summary>All threads of a process so far. The kernel counts what runs only now and then (a tick, some milliseconds); for one
    /// that stands still it is exact.</summary>
    public static TimeSpan Of(int process)
    {
        long nanoseconds = 0;
        foreach (string thread in Directory.EnumerateDirectories($"/proc/{process}/task"))
        {
            nanoseconds += long.Parse(File.ReadAllText($"{thread}/schedstat").Split(' ')[0], CultureInfo.InvariantCulture);
        }

        return TimeSpan.FromMicroseconds(nanoseconds / 1e3);
    }

    /// <summary>The calling thread so far.</summary>
    public static TimeSpan OfThisThread()
    {
        _ = clock_gettime(ThreadProcessorTimeClock, out TimeSpec time);
        return TimeSpan.FromSeconds(time.tv_sec) + TimeSpan.FromMicroseconds(time.tv_nsec / 1e3);
    }

    [LibraryImport("libc")]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static partial int clock_gettime(int clock, out TimeSpec time);

    // linux/time_types.h: struct __kernel_timespec.
    private struct TimeSpec
    {
        public long tv_sec;
        public long tv_nsec;
    }
}
