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

    /// <summary>Keeps the calling thread on some processors.</summary>
    /// <param name="processors">Their numbers, 0 to 8191.</param>
    /// <exception cref="LinuxException">sched_setaffinity(2) failed: EINVAL where none of them exists, is on line, and is among those
    /// that this process may use.</exception>
    public static void Set(params ReadOnlySpan<int> processors)
    {
        ulong* mask = stackalloc ulong[MaxProcessors / 64];
        new Span<ulong>(mask, MaxProcessors / 64).Clear();
        foreach (int processor in processors)
        {
            ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)processor, (uint)MaxProcessors, nameof(processors));
            mask[processor / 64] |= 1ul << (processor % 64);
        }

        // SAFETY: as above.
        if (LibC.sched_setaffinity(0, MaxProcessors / 8, mask) < 0)
        {
            throw new LinuxException("sched_setaffinity", (Errno)LibC.errno, $"processors {string.Join(',', processors.ToArray())}");
        }
    }

    /// <summary>Keeps the calling thread off processors that others have to themselves, unless that would leave it none.</summary>
    /// <param name="processors">Their numbers.</param>
    /// <exception cref="LinuxException">A call failed.</exception>
    public static void Avoid(IEnumerable<int> processors)
    {
        int[] rest = [.. Get().Except(processors)];
        if (rest.Length != 0)
        {
            Set(rest);
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
