namespace Vfio;

/// <summary>What a device may do with a mapping. The bits are those of <c>struct vfio_iommu_type1_dma_map.flags</c>.</summary>
[Flags]
public enum DmaAccess
{
    /// <summary>Nothing; no mapping has it.</summary>
    None = 0,

    /// <summary>Device-readable.</summary>
    Read = 1,

    /// <summary>Device-writable.</summary>
    Write = 2,

    /// <summary>Both.</summary>
    ReadWrite = Read | Write,
}
