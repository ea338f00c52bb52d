namespace Vfio.Testing;

/// <summary>A live mapping of a simulated IOMMU.</summary>
/// <param name="Range">Where the device finds it.</param>
/// <param name="Address">Where this process has it.</param>
/// <param name="Access">What the device may do.</param>
/// <param name="LockedPages">Pages of 4 KiB that count as locked.</param>
public sealed record SimMapping(IovaRange Range, HostAddress Address, DmaAccess Access, ulong LockedPages)
{
    /// <summary>Whether VFIO_DMA_UNMAP_FLAG_VADDR took the host address away.</summary>
    internal bool AddressIsInvalid { get; set; }

    /// <summary>The kernel's bitmap of this mapping while dirty pages are tracked.</summary>
    internal ulong[]? Bitmap { get; set; }

    public override string ToString() => $"iova {Range} at {Address} (device {Access})";
}
