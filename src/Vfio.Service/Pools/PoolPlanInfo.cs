namespace Vfio.Service;

/// <summary>What making a pool would do, as <c>pool plan</c> tells it.</summary>
/// <param name="CanWork">Whether nothing stands against it.</param>
/// <param name="Size">Bytes.</param>
/// <param name="PageSize">The pages that it would be made of.</param>
/// <param name="MapCalls">Calls of VFIO_IOMMU_MAP_DMA.</param>
/// <param name="Entries">Entries of the container's limit that it would use.</param>
/// <param name="EntriesAvailable">Entries that there are, or null where the kernel does not tell.</param>
/// <param name="LockedBytes">Bytes that count against RLIMIT_MEMLOCK.</param>
/// <param name="MemlockLimit">RLIMIT_MEMLOCK in bytes, or null where nothing limits.</param>
/// <param name="FreeGranularity">Bytes of the largest piece that is freed at once.</param>
/// <param name="Assumed">True when no device was asked: the limits are those that are usual.</param>
/// <param name="Maps">The maps, in order.</param>
/// <param name="ValidRanges">The IOVAs that the IOMMU takes, each <c>first-last</c>.</param>
/// <param name="Problems">What stands against it.</param>
public sealed record PoolPlanInfo(
    bool CanWork,
    ulong Size,
    string PageSize,
    int MapCalls,
    int Entries,
    uint? EntriesAvailable,
    ulong LockedBytes,
    ulong? MemlockLimit,
    ulong FreeGranularity,
    bool Assumed,
    IReadOnlyList<MapInfo> Maps,
    IReadOnlyList<string> ValidRanges,
    IReadOnlyList<ProblemInfo> Problems)
{
    internal static PoolPlanInfo Of(PoolPlan plan, PinLimits limits) => new(
        plan.CanWork,
        plan.Size,
        plan.Backing.Name(),
        plan.Pin?.MapCalls ?? 0,
        plan.Pin?.Entries ?? 0,
        limits.AvailableEntries,
        plan.Pin?.LockedBytes ?? 0,
        limits.Memlock.Exempt ? null : limits.Memlock.Limit,
        plan.Pin?.LargestMap ?? 0,
        limits.Assumed,
        [.. (plan.Pin?.Maps ?? []).Select(m => new MapInfo(m.Mapping.Iova.First, m.Mapping.Iova.Length, m.LargestPage))],
        [.. limits.ValidRanges.Select(r => r.ToString())],
        [.. plan.Problems.Select(p => new ProblemInfo(p.Limit, p.Errno.ToString(), p.Need, p.Have, p.Excess, p.Unit, p.Cause, p.Cure))]);
}

/// <summary>One map of a plan.</summary>
/// <param name="Iova">Where the device finds its first byte.</param>
/// <param name="Length">Bytes.</param>
/// <param name="LargestPage">Bytes of the largest IOMMU page that it allows.</param>
public sealed record MapInfo(Iova Iova, ulong Length, ulong LargestPage);

/// <summary>A limit that stands against a plan.</summary>
/// <param name="Limit">Its name.</param>
/// <param name="Errno">What the call would fail with.</param>
/// <param name="Need">How much is needed.</param>
/// <param name="Have">How much there is.</param>
/// <param name="Missing">How much is missing.</param>
/// <param name="Unit">What is counted.</param>
/// <param name="Cause">Why.</param>
/// <param name="Cure">What to do.</param>
public sealed record ProblemInfo(string Limit, string Errno, ulong Need, ulong Have, ulong Missing, string Unit, string Cause, string Cure);
