using System.Runtime.InteropServices;

namespace Vfio.VhostUser.Benchmarks;

/// <summary>How long processes and threads were on a processor.</summary>
internal static partial class ProcessorTime
{
    // linux/time.h.
    private const int OfThread = 3;

    // linux/posix-timers_types.h: a process's clock is the complement of its id, above three bits that say which of its clocks.
    private const int Scheduled = 2;

    /// <summary>All threads of a process so far, those that have ended among them.</summary>
    /// <param name="process">One that was not waited for, if it has ended. The kernel counts what runs only now and then (at each tick, some
    /// milliseconds); of one that stands still nothing is missing.</param>
    /// <exception cref="InvalidOperationException">There is no such process.</exception>
    public static TimeSpan Of(int process) => Read((~process << 3) | Scheduled);

    /// <summary>The calling thread so far.</summary>
    public static TimeSpan OfThisThread() => Read(OfThread);

    private static TimeSpan Read(int clock) => clock_gettime(clock, out TimeSpec time) == 0
        ? TimeSpan.FromSeconds(time.tv_sec) + TimeSpan.FromMicroseconds(time.tv_nsec / 1e3)
        : throw new InvalidOperationException("a process that is measured has ended");

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
