namespace Vfio;

/// <summary>The kernel's dirty tracking of one container, shared by its pools: VFIO_IOMMU_DIRTY_PAGES starts and stops it for every
/// mapping there at once, so it runs as long as one of them wants it.</summary>
/// <remarks>Thread-safe.</remarks>
/// <param name="iommu">The container's IOMMU.</param>
internal sealed class KernelDirtyTracking(Type1Iommu iommu)
{
    private readonly Lock _lock = new();
    private int _users;

    /// <summary>Counts one more who wants it; the first starts it.</summary>
    public void Start()
    {
        lock (_lock)
        {
            if (_users == 0)
            {
                iommu.StartDirtyTracking();
            }

            _users++;
        }
    }

    /// <summary>Counts one less; the last stops it, and counts still when that fails.</summary>
    public void Stop()
    {
        lock (_lock)
        {
            if (_users == 1)
            {
                iommu.StopDirtyTracking();
            }

            _users--;
        }
    }
}
