using Vfio.Linux;

namespace Vfio;

/// <summary>Makes the pages of memory exist, on several threads: clearing pages is the slow part of pinning, and inside VFIO_IOMMU_MAP_DMA
/// it would be done by one thread under the container's lock.</summary>
internal sealed class Populator
{
    // Large enough that a thread's calls do not matter, small enough that progress moves and threads end together.
    private const ulong Chunk = 32 * ByteSize.MiB;
    private const ulong Page = 4096;

    private readonly List<(HostRange Range, DmaAccess Access)> _chunks = [];
    private readonly List<PopulateFailure> _failures = [];
    private readonly Lock _lock = new();
    private readonly IProgress<PopulateProgress>? _progress;
    private ulong _total;
    private ulong _done;
    private int _next = -1;

    private Populator(IProgress<PopulateProgress>? progress) => _progress = progress;

    /// <summary>Populates ranges; pages that exist already cost next to nothing.</summary>
    /// <param name="ranges">The memory.</param>
    /// <param name="threads">Threads to use at the most; 0 for one per processor.</param>
    /// <param name="progress">Told after each piece, from the thread that did it.</param>
    /// <returns>The pieces that failed, by host address. Memory of a device is none of them: it has no pages to populate, yet can be mapped.</returns>
    public static IReadOnlyList<PopulateFailure> Run(IEnumerable<PinRange> ranges, int threads, IProgress<PopulateProgress>? progress)
    {
        var populator = new Populator(progress);
        foreach (PinRange range in ranges)
        {
            populator.Add(range);
        }

        int most = threads > 0 ? threads : Environment.ProcessorCount;
        var helpers = new Thread[Math.Clamp(populator._chunks.Count - 1, 0, most - 1)];
        for (int i = 0; i < helpers.Length; i++)
        {
            helpers[i] = new Thread(populator.Work) { IsBackground = true, Name = "vfiopin populate" };
            helpers[i].Start();
        }

        populator.Work();
        foreach (Thread helper in helpers)
        {
            helper.Join();
        }

        populator._failures.Sort((a, b) => a.Host.First.CompareTo(b.Host.First));
        return populator._failures;
    }

    private void Add(PinRange range)
    {
        ulong step = Math.Max(Chunk, range.Backing.PageSize());
        ulong first = range.Host.First.Value;
        while (true)
        {
            ulong last = Math.Min(range.Host.Last.Value, first | (step - 1));
            _chunks.Add((new HostRange(new HostAddress(first), new HostAddress(last)), range.Access));
            _total += last - first + 1;
            if (last == range.Host.Last.Value)
            {
                return;
            }

            first = last + 1;
        }
    }

    private void Work()
    {
        for (int i = Interlocked.Increment(ref _next); i < _chunks.Count; i = Interlocked.Increment(ref _next))
        {
            (HostRange range, DmaAccess access) = _chunks[i];
            Errno errno = (access & DmaAccess.Write) != 0 ? Advise(range, Mman.MADV_POPULATE_WRITE) : PopulateForReading(range);
            ulong done;
            lock (_lock)
            {
                // EINVAL: a kernel before 5.14, or a device's memory; mapping it decides.
                if (errno is not (Errno.None or Errno.EINVAL))
                {
                    _failures.Add(PopulateFailure.Of(range, errno));
                }

                _done += range.Length;
                done = _done;
            }

            // Without the lock: what is told may take its time, and the other threads go on.
            _progress?.Report(new PopulateProgress(done, _total));
        }
    }

    // Written to wherever that is allowed: a page that was only read may be a shared one of zeros, or of a file, and kernels before 6.2 pin
    // that one for a device that only reads. The first store here moves to another page, of which the device would never know. What may
    // not be written is found by halving, and read.
    private static Errno PopulateForReading(HostRange range)
    {
        Errno errno = Advise(range, Mman.MADV_POPULATE_WRITE);
        if (errno is not (Errno.EINVAL or Errno.ENOMEM or Errno.EFAULT))
        {
            return errno;
        }

        if (range.Length <= Page || !KnowsAdvice)
        {
            return Advise(range, Mman.MADV_POPULATE_READ);
        }

        ulong half = range.Length / 2 / Page * Page;
        Errno lower = PopulateForReading(HostRange.Of(range.First, half));
        Errno upper = PopulateForReading(HostRange.Of(range.First + half, range.Length - half));
        return lower != Errno.None ? lower : upper;
    }

    // Of no memory at all, only the advice is looked at (madvise_behavior_valid).
    private static bool KnowsAdvice => LibC.madvise(0, 0, Mman.MADV_POPULATE_WRITE) == 0;

    private static Errno Advise(HostRange range, int advice)
    {
        while (LibC.madvise((nint)range.First.Value, (nuint)range.Length, advice) < 0)
        {
            var errno = (Errno)LibC.errno;
            if (errno is not (Errno.EINTR or Errno.EAGAIN))
            {
                return errno;
            }
        }

        return Errno.None;
    }
}
