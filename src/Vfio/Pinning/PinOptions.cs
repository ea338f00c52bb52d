namespace Vfio;

/// <summary>How to pin.</summary>
public sealed record PinOptions
{
    /// <summary>All or nothing, whole runs, as many threads as are useful.</summary>
    public static PinOptions Default { get; } = new();

    /// <summary>What happens when some of the pages cannot be pinned.</summary>
    public PinPolicy Policy { get; init; } = PinPolicy.AllOrNothing;

    /// <summary>Bytes that must be possible to free alone: no map is larger. A power of two of at least 4 KiB, or 0 for maps as large as
    /// they can be. An unmap must not cut a map in two, so this is a trade of IOMMU entries for freedom to shrink.</summary>
    public ulong Grain { get; init; }

    /// <summary>Whether the IOVAs of each run must be in one piece; else a run may be cut where no free range is large enough.</summary>
    public bool Contiguous { get; init; }

    /// <summary>Where the first byte shall be found by the device, or null for a place of the allocator's choice. For one range only.</summary>
    public Iova? At { get; init; }

    /// <summary>Whether to populate the memory first. Memory that is known to be populated saves the look.</summary>
    public bool Populate { get; init; } = true;

    /// <summary>Threads that populate the memory; 0 for one per processor that this process may use.</summary>
    public int PopulateThreads { get; init; }

    /// <summary>Told how far populating is; called from the populating threads.</summary>
    public IProgress<PopulateProgress>? Progress { get; init; }
}
