namespace Vfio;

/// <summary>Who tells which pages were written.</summary>
[Flags]
public enum DirtySources
{
    /// <summary>Nobody.</summary>
    None = 0,

    /// <summary>The pool's own record: completed device writes, and writes by the processor that went through the library.</summary>
    OwnRecord = 1,

    /// <summary>The kernel (<c>VFIO_IOMMU_DIRTY_PAGES</c>). For an ordinary vfio-pci device it names every mapped page.</summary>
    Kernel = 2,
}
