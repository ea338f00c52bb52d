namespace Vfio;

/// <summary>One entry of the IOMMU that this process made: the host range is pinned, and the device finds it at the IOVA range of the
/// same length. It is mapped and unmapped whole.</summary>
/// <param name="Host">The host addresses.</param>
/// <param name="Iova">The IOVAs.</param>
/// <param name="Access">What the device may do.</param>
public readonly record struct DmaMapping(HostRange Host, IovaRange Iova, DmaAccess Access)
{
    /// <inheritdoc/>
    public override string ToString() => $"iova {Iova} -> {Host} (device {Access})";
}
