namespace Vfio.Testing;

/// <summary>An access of a device that did not happen: the IOMMU refused it, or the device may not make any.</summary>
/// <param name="Device">Which device.</param>
/// <param name="Iova">Where it reached.</param>
/// <param name="Length">How many bytes.</param>
/// <param name="Access">What it wanted to do there.</param>
/// <param name="Reason">Why not.</param>
public sealed record DmaFault(PciAddress Device, Iova Iova, ulong Length, DmaAccess Access, string Reason)
{
    public override string ToString() => $"DMA fault of {Device}: {Access} of {Length} bytes at iova {Iova}: {Reason}";
}
