using Vfio.Linux;

namespace Vfio.Service;

/// <summary>A pool as <c>pool show</c> tells it.</summary>
/// <param name="Name">Its name.</param>
/// <param name="Size">Bytes.</param>
/// <param name="PinnedBytes">Bytes that are pinned.</param>
/// <param name="MapCalls">Calls of VFIO_IOMMU_MAP_DMA that made its segments.</param>
/// <param name="EntriesUsed">Entries of the container's limit that it uses.</param>
/// <param name="EntriesAvailable">Entries left in the container, or null where the kernel does not tell.</param>
/// <param name="BufferSize">Bytes of a buffer.</param>
/// <param name="BuffersInUse">Buffers lent out now.</param>
/// <param name="PiecesInUse">Larger pieces lent out now.</param>
/// <param name="BytesInUse">Bytes of both.</param>
/// <param name="Devices">The devices that reach it.</param>
/// <param name="Segments">What it is made of.</param>
public sealed record PoolInfo(
    string Name,
    ulong Size,
    ulong PinnedBytes,
    long MapCalls,
    int EntriesUsed,
    uint? EntriesAvailable,
    int BufferSize,
    long BuffersInUse,
    int PiecesInUse,
    ulong BytesInUse,
    IReadOnlyList<PciAddress> Devices,
    IReadOnlyList<SegmentInfo> Segments)
{
    internal static PoolInfo Of(EnginePool pool)
    {
        PinnedPool memory = pool.Pool;
        PoolUse use = memory.Use();
        return new PoolInfo(
            memory.Name,
            memory.Length,
            memory.PinnedBytes,
            memory.MapCalls,
            memory.EntriesUsed,
            EntriesLeft(pool.Space.Pinner.Iommu),
            memory.BufferSize,
            use.Buffers,
            use.Pieces,
            use.Bytes,
            [.. pool.Space.Devices.Select(d => d.Address)],
            [.. memory.Segments.Select(SegmentInfo.Of)]);
    }

    // What was done to the pool is done: that it cannot be told how many entries are left makes no failure of it.
    private static uint? EntriesLeft(Type1Iommu iommu)
    {
        try
        {
            iommu.Refresh();
            return iommu.AvailableEntries;
        }
        catch (LinuxException)
        {
            return null;
        }
    }
}

/// <summary>A segment of a pool.</summary>
/// <param name="Offset">Bytes from the pool's start.</param>
/// <param name="Length">Bytes.</param>
/// <param name="Iova">Where the device finds its first byte.</param>
/// <param name="PageSize">The pages that it is made of.</param>
/// <param name="Maps">Its entries of the IOMMU.</param>
/// <param name="TransparentBytes">Bytes in transparent huge pages, where the kernel tells.</param>
/// <param name="Nodes">Bytes on each NUMA node, where the kernel tells.</param>
/// <param name="NodeRefused">Why the kernel would not prefer the node that was wished for (mbind), or null when it did or none was.</param>
public sealed record SegmentInfo(
    ulong Offset, ulong Length, Iova Iova, string PageSize, int Maps, ulong? TransparentBytes, IReadOnlyDictionary<int, ulong>? Nodes, string? NodeRefused)
{
    internal static SegmentInfo Of(PoolSegment segment) => new(
        segment.Offset.Value,
        segment.Length,
        segment.Iova,
        segment.Backing.Name(),
        segment.Mappings.Count,
        segment.Placement?.TransparentBytes,
        segment.Placement?.NodeBytes,
        segment.NodeRefused == Errno.None ? null : segment.NodeRefused.ToString());
}
