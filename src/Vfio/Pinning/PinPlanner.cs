using System.Globalization;
using System.Runtime.CompilerServices;
using Vfio.Linux;

namespace Vfio;

/// <summary>Turns ranges to pin into as few maps as can do it. Computes only; asks the kernel nothing and touches nothing.</summary>
public static class PinPlanner
{
    private const ulong Page = 4096;

    // A plan lists each map, and dma_entry_limit is 65535 by default: whoever asks for more mistook the grain.
    private const ulong MostMaps = 1 << 20;

    // What IOMMU page tables have on x86-64 and arm64 with 4 KiB granules, and the sizes of their large pages.
    private const ulong EntriesOfTable = 512;
    private static readonly ulong[] LargePages = [ByteSize.GiB, 2 * ByteSize.MiB];

    /// <summary>Plans for a container in which nothing is mapped yet.</summary>
    /// <param name="ranges">The memory, in any order; ranges may touch and overlap. Where two overlap, the device gets what either asks.</param>
    /// <param name="limits">What the plan is held against.</param>
    /// <param name="options">How to pin; the default for null.</param>
    /// <returns>The plan.</returns>
    /// <exception cref="ArgumentException">A range or an option is not in whole pages, or gives no access.</exception>
    public static PinPlan Plan(IReadOnlyList<PinRange> ranges, PinLimits limits, PinOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(ranges);
        ArgumentNullException.ThrowIfNull(limits);
        return Plan(ranges, limits, options ?? PinOptions.Default, new IovaAllocator(limits.ValidRanges), new LiveMappings());
    }

    /// <summary>Plans on top of what is mapped; what the plan needs is taken out of <paramref name="allocator"/>.</summary>
    internal static PinPlan Plan(
        IReadOnlyList<PinRange> ranges, PinLimits limits, PinOptions options, IovaAllocator allocator, LiveMappings live)
    {
        Check(ranges, options);
        var references = new List<DmaMapping>();
        var refused = new List<PinFailure>();
        var problems = new List<PinProblem>();
        var maps = new List<PinMap>();
        ulong pieces = 0;
        foreach (Run run in Join(Subtract(Flatten(ranges), live, references, refused), limits.PageSizes, options.Grain))
        {
            ulong more = options.Grain == 0 ? 1 : (run.Last / options.Grain) - (run.First / options.Grain) + 1;
            if (pieces + more > MostMaps)
            {
                Refuse(run, TooManyMaps(pieces + more), refused, problems);
                continue;
            }

            pieces += more;
            Place(run, ranges[0].Host.First, options, allocator, maps, refused, problems);
        }

        var plan = new PinPlan(maps, references, refused, problems, options.Grain, limits);
        if (limits.AvailableEntries is { } entries && (ulong)plan.Entries > entries)
        {
            problems.Add(EntriesShort((ulong)plan.Entries, entries));
        }

        if (limits.Memlock.Left is { } left && plan.LockedBytes > left)
        {
            problems.Add(MemlockShort(limits.Memlock, plan.LockedBytes, left));
        }

        return plan;
    }

    /// <summary>Takes IOVAs for one range in one piece, where the IOMMU can use pages as large as the range holds; no plan is made, and
    /// false says only that there must be one.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static bool TryAllocate(
        HostRange host, DmaAccess access, MemoryBacking backing, ulong pageSizes, IovaAllocator allocator, out Iova iova)
    {
        iova = default;
        ulong first = host.First.Value;
        ulong last = host.Last.Value;
        return CanBePinned(host, access)
            && TryAllocate(first, last - first + 1, LargestPage(first, last, backing.PageSize(), pageSizes), allocator, out iova);
    }

    internal static bool CanBePinned(HostRange host, DmaAccess access) => IsInWholePages(host) && GivesAccess(access);

    internal static PinProblem EntriesShort(ulong need, ulong have) => new(
        "dma_entry_limit", "VFIO_IOMMU_MAP_DMA", Errno.ENOSPC, need, have, "entries",
        "the container's entries would run out (dma_entry_limit of vfio_iommu_type1)",
        string.Create(CultureInfo.InvariantCulture,
            $"f=/sys/module/vfio_iommu_type1/parameters/dma_entry_limit; echo $(($(cat $f) + {need - have})) > $f before the container is opened, or pin fewer, larger ranges, or use a larger grain"));

    private static PinProblem TooManyMaps(ulong need) => new(
        "maps of a plan", "VFIO_IOMMU_MAP_DMA", Errno.ENOSPC, need, MostMaps, "maps",
        "it would take more calls than a plan may list", "use a larger grain, or pin in several parts");

    private static PinProblem MemlockShort(MemlockLimit memlock, ulong need, ulong left) => new(
        "RLIMIT_MEMLOCK", "VFIO_IOMMU_MAP_DMA", Errno.ENOMEM, need, left, "bytes",
        $"the limit is {ByteSize.Text(memlock.Limit ?? 0)}, of which {ByteSize.Text(memlock.Used)} are used, and pinned pages count against it",
        memlock.Cure(need));

    private static void Check(IReadOnlyList<PinRange> ranges, PinOptions options)
    {
        foreach (PinRange range in ranges)
        {
            if (!IsInWholePages(range.Host))
            {
                throw new ArgumentException(
                    $"{range.Host} is not in whole pages of 4 KiB, so a device would reach what is next to it; use aligned memory", nameof(ranges));
            }

            if (!GivesAccess(range.Access))
            {
                throw new ArgumentException($"{range.Host}: the device must be given Read, Write or both, not {range.Access}", nameof(ranges));
            }
        }

        if (options.Grain != 0 && (options.Grain < Page || !ulong.IsPow2(options.Grain)))
        {
            throw new ArgumentException($"a grain of {options.Grain} bytes is no power of two of at least 4 KiB", nameof(options));
        }

        if (options.At is { } at && (ranges.Count != 1 || !at.IsAligned(Page)))
        {
            throw new ArgumentException($"a fixed IOVA ({at}) is for exactly one range and a multiple of 4 KiB", nameof(options));
        }
    }

    // Ascending pieces that do not overlap: of one access, the union of what all ask, and of one backing, the smallest that any names.
    private static List<Run> Flatten(IReadOnlyList<PinRange> ranges)
    {
        var edges = new List<(ulong At, int Range, int Delta)>(ranges.Count * 2);
        for (int i = 0; i < ranges.Count; i++)
        {
            edges.Add((ranges[i].Host.First.Value, i, 1));
            edges.Add((checked(ranges[i].Host.Last.Value + 1), i, -1));
        }

        edges.Sort((a, b) => a.At.CompareTo(b.At));
        Span<int> access = stackalloc int[4];
        Span<int> backing = stackalloc int[4];
        access.Clear();
        backing.Clear();
        var pieces = new List<Run>();
        int active = 0;
        for (int i = 0; i < edges.Count; i++)
        {
            (ulong at, int range, int delta) = edges[i];
            access[(int)ranges[range].Access] += delta;
            backing[(int)ranges[range].Backing] += delta;
            active += delta;
            if (active == 0 || edges[i + 1].At == at)
            {
                continue;
            }

            DmaAccess all = (access[1] + access[3] > 0 ? DmaAccess.Read : 0) | (access[2] + access[3] > 0 ? DmaAccess.Write : 0);
            var smallest = (MemoryBacking)backing.IndexOfAnyExcept(0);
            ulong last = edges[i + 1].At - 1;
            if (pieces.Count > 0 && pieces[^1] is var previous && previous.Last + 1 == at && previous.Access == all && previous.LargePage == smallest.PageSize())
            {
                pieces[^1] = previous with { Last = last };
            }
            else
            {
                pieces.Add(new Run(at, last, all, smallest.PageSize()));
            }
        }

        return pieces;
    }

    // What is pinned already needs a reference, not a call.
    private static List<Run> Subtract(List<Run> pieces, LiveMappings live, List<DmaMapping> references, List<PinFailure> refused)
    {
        var rest = new List<Run>(pieces.Count);
        foreach (Run piece in pieces)
        {
            ulong next = piece.First;
            foreach (LiveMapping mapping in live.Overlapping(Host(piece.First, piece.Last)))
            {
                ulong first = Math.Max(mapping.Host.Value, piece.First);
                ulong last = Math.Min(mapping.HostLast.Value, piece.Last);
                if (first > next)
                {
                    rest.Add(piece with { First = next, Last = first - 1 });
                }

                if ((mapping.Access & piece.Access) != piece.Access)
                {
                    refused.Add(new PinFailure(Host(first, last), Errno.EEXIST,
                        $"it is pinned already, and the device may only {mapping.Access} there, not {piece.Access}",
                        "release it first, or ask for both from the start"));
                }
                else if (references.Count == 0 || references[^1].Host.First != mapping.Host)
                {
                    references.Add(mapping.Mapping);
                }

                next = last + 1;
            }

            if (next <= piece.Last)
            {
                rest.Add(piece with { First = next });
            }
        }

        return rest;
    }

    // Touching pieces of one access make one run, whatever they are made of; the largest page that any part allows aligns it.
    private static List<Run> Join(List<Run> pieces, ulong pageSizes, ulong grain)
    {
        var runs = new List<Run>(pieces.Count);
        foreach (Run piece in pieces)
        {
            ulong largest = LargestPage(piece.First, piece.Last, piece.LargePage, pageSizes, grain == 0 ? ulong.MaxValue : grain);
            if (runs.Count > 0 && runs[^1] is var previous && previous.Last + 1 == piece.First && previous.Access == piece.Access)
            {
                runs[^1] = previous with { Last = piece.Last, LargePage = Math.Max(previous.LargePage, largest) };
            }
            else
            {
                runs.Add(piece with { LargePage = largest });
            }
        }

        return runs;
    }

    private static void Place(
        Run run, HostAddress requested, PinOptions options, IovaAllocator allocator, List<PinMap> maps, List<PinFailure> refused, List<PinProblem> problems)
    {
        if (options.At is { } at)
        {
            IovaRange wanted = IovaRange.Of(at + (run.First - requested.Value), run.Length);
            if (allocator.TryReserve(wanted))
            {
                Cut(run, wanted.First, options.Grain, maps);
            }
            else
            {
                Refuse(run, new PinProblem("IOVA", "VFIO_IOMMU_MAP_DMA", Errno.EEXIST, run.Length, 0, "bytes",
                    $"iova {wanted} is not wholly free: part of it is mapped, or outside the IOMMU's valid ranges", "choose another IOVA, or none"), refused, problems);
            }

            return;
        }

        while (true)
        {
            if (TryAllocate(run.First, run.Length, run.LargePage, allocator, out Iova iova))
            {
                Cut(run, iova, options.Grain, maps);
                return;
            }

            ulong largest = allocator.LargestFree;
            ulong part = options.Contiguous ? 0 : options.Grain > 0 && largest > options.Grain ? largest & ~(options.Grain - 1) : largest;
            if (part == 0)
            {
                Refuse(run, new PinProblem("IOVA space", "VFIO_IOMMU_MAP_DMA", Errno.ENOSPC, run.Length, largest, "bytes",
                    "no free range of IOVAs is large enough", "release memory that is pinned, or pin less"), refused, problems);
                return;
            }

            Run first = run with { Last = run.First + part - 1 };
            if (!TryAllocate(first.First, first.Length, first.LargePage, allocator, out iova))
            {
                throw new InvalidOperationException($"{part} bytes of IOVA are free and cannot be had");
            }

            Cut(first, iova, options.Grain, maps);
            run = run with { First = first.Last + 1 };
        }
    }

    private static void Refuse(Run run, PinProblem problem, List<PinFailure> refused, List<PinProblem> problems)
    {
        problems.Add(problem);
        refused.Add(new PinFailure(Host(run.First, run.Last), problem.Errno, problem.Cause, problem.Cure));
    }

    // Congruent modulo the largest page that the memory can use, or else modulo smaller ones.
    private static bool TryAllocate(ulong first, ulong length, ulong largePage, IovaAllocator allocator, out Iova iova) =>
        allocator.TryTake(length, new HostAddress(first), largePage, out iova)
            || TryAllocateBelow(first, length, largePage, allocator, out iova);

    // Apart, so that the usual case is without the loop.
    private static bool TryAllocateBelow(ulong first, ulong length, ulong largePage, IovaAllocator allocator, out Iova iova)
    {
        foreach (ulong modulus in LargePages)
        {
            if (modulus < largePage && allocator.TryTake(length, new HostAddress(first), modulus, out iova))
            {
                return true;
            }
        }

        iova = default;
        return largePage > Page && allocator.TryTake(length, new HostAddress(first), Page, out iova);
    }

    // Cuts at multiples of the grain in host addresses, so that large pages stay whole.
    private static void Cut(Run run, Iova iova, ulong grain, List<PinMap> maps)
    {
        ulong first = run.First;
        while (true)
        {
            ulong last = grain == 0 ? run.Last : Math.Min(run.Last, first | (grain - 1));
            Iova at = iova + (first - run.First);
            ulong page = Page;
            foreach (ulong size in LargePages)
            {
                if (size <= run.LargePage && ((first ^ at.Value) & (size - 1)) == 0 && HoldsAligned(first, last, size))
                {
                    page = size;
                    break;
                }
            }

            maps.Add(new PinMap(new DmaMapping(Host(first, last), IovaRange.Of(at, last - first + 1), run.Access), page));
            if (last == run.Last)
            {
                return;
            }

            first = last + 1;
        }
    }

    // From the backing's own pages down: an entry of one table maps what a whole table of the next level does.
    private static ulong LargestPage(ulong first, ulong last, ulong backing, ulong pageSizes, ulong most = ulong.MaxValue)
    {
        ulong size = backing;
        while (size > Page && (size > most || (pageSizes & size) == 0 || !HoldsAligned(first, last, size)))
        {
            size /= EntriesOfTable;
        }

        return size;
    }

    private static bool IsInWholePages(HostRange range) => range.First.IsAligned(Page) && (range.Last.Value & (Page - 1)) == Page - 1;

    private static bool GivesAccess(DmaAccess access) => access is DmaAccess.Read or DmaAccess.Write or DmaAccess.ReadWrite;

    private static bool HoldsAligned(ulong first, ulong last, ulong size)
    {
        ulong aligned = (first + size - 1) & ~(size - 1);
        return aligned >= first && aligned <= last && last - aligned >= size - 1;
    }

    private static HostRange Host(ulong first, ulong last) => new(new HostAddress(first), new HostAddress(last));

    // LargePage is first what the backing has, then what the run can use.
    private readonly record struct Run(ulong First, ulong Last, DmaAccess Access, ulong LargePage)
    {
        public ulong Length => Last - First + 1;
    }
}
