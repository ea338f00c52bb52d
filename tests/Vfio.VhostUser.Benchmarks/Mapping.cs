namespace Vfio.VhostUser.Benchmarks;

/// <summary>How a guest lets its device use buffers.</summary>
internal enum Mapping
{
    /// <summary>No IOMMU.</summary>
    None,

    /// <summary>One page of 1 GiB, once.</summary>
    Static1G,

    /// <summary>64 pages of 2 MiB, once, no two of them neighbours here.</summary>
    Static2M,

    /// <summary>A page of 4 KiB for each buffer, once, no two of them neighbours here.</summary>
    Static4K,

    /// <summary>A page mapped, sent and unmapped for each frame.</summary>
    Dynamic,

    /// <summary>The same in batches of 32.</summary>
    Dynamic32,
}
