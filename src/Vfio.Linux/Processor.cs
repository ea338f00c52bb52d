namespace Vfio.Linux;

/// <summary>One processor of the machine, by number.</summary>
/// <param name="Number">0 and up, as in <c>/proc/cpuinfo</c>.</param>
public readonly record struct Processor(int Number)
{
    private const int MaxProcessors = 8192;

    /// <summary>Lets the calling thread run on this processor only. Threads that it starts later inherit that.</summary>
    /// <exception cref="LinuxException">sched_setaffinity(2) failed: there is no such processor, or this process may not use it.</exception>
    public unsafe void PinCurrentThread()
    {
        ArgumentOutOfRangeException.ThrowIfNegative(Number);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(Number, MaxProcessors);
        byte* mask = stackalloc byte[MaxProcessors / 8];
        new Span<byte>(mask, MaxProcessors / 8).Clear();
        mask[Number / 8] = (byte)(1 << (Number % 8));
        // SAFETY: the mask's own size.
        if (LibC.sched_setaffinity(0, MaxProcessors / 8, mask) < 0)
        {
            throw new LinuxException("sched_setaffinity", (Errno)LibC.errno, $"processor {Number}",
                "there is no such processor, or a cpuset keeps this process from it", "choose one of /proc/self/status, Cpus_allowed_list");
        }
    }

    /// <inheritdoc/>
    public override string ToString() => $"CPU {Number}";
}
