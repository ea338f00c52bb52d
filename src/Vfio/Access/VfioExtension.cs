namespace Vfio;

/// <summary>What a container may offer beyond mapping and unmapping (VFIO_CHECK_EXTENSION).</summary>
public enum VfioExtension
{
    /// <summary>No extension; every container lacks it.</summary>
    None = 0,

    /// <summary>Type1 version 2 itself.</summary>
    Type1V2 = 3,

    /// <summary>Unmapping everything with one call (kernel 5.12).</summary>
    UnmapAll = 9,

    /// <summary>Handing mappings to another process (kernel 5.12).</summary>
    UpdateVaddr = 10,
}
