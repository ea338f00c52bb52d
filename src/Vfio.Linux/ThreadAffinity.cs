namespace Vfio.Linux;

/// <summary>Which processors the calling thread runs on (sched_setaffinity(2)). Threads started later inherit it.</summary>
public static unsafe class ThreadAffinity
{
    private const int MaxProcessors = 8192;

    /// <summary>The processors that the calling thread may run on, ascending.</summary>
    /// <returns>Their numbers, at least one.</returns>
    /// <exception cref="LinuxException">sched_getaffinity(2) failed.</exception>
    public static int[] Get()
    {
        ulong* mask = stackalloc ulong[MaxProcessors / 64];
        // SAFETY: the mask is as long as is said.
        int result = LibC.sched_getaffinity(0, MaxProcessors / 8, mask);
        return result >= 0
            ? [.. Processors(new ReadOnlySpan<ulong>(mask, MaxProcessors / 64))]
            : throw new LinuxException("sched_getaffinity", (Errno)LibC.errno, string.Empty);
    }

    /// <summary>Keeps the calling thread on one processor.</summary>
    /// <param name="processor">Its number.</param>
    /// <exception cref="LinuxException">sched_setaffinity(2) failed: EINVAL where the processor does not exist, is offline, or is
    /// not among those that this process may use.</exception>
    public static void Set(int processor)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(processor);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(processor, MaxProcessors);
        ulong* mask = stackalloc ulong[MaxProcessors / 64];
        new Span<ulong>(mask, MaxProcessors / 64).Clear();
        mask[processor / 64] = 1ul << (processor % 64);
        // SAFETY: as above.
        if (LibC.sched_setaffinity(0, MaxProcessors / 8, mask) < 0)
        {
            throw new LinuxException("sched_setaffinity", (Errno)LibC.errno, $"processor {processor}");
        }
    }

    private static List<int> Processors(ReadOnlySpan<ulong> mask)
    {
        var processors = new List<int>();
        for (int i = 0; i < MaxProcessors; i++)
        {
            if ((mask[i / 64] & (1ul << (i % 64))) != 0)
            {
                processors.Add(i);
            }
        }

        return processors;
    }
}
