namespace Vfio.Virtio;

/// <summary>What a block device says of itself (virtio 1.3, 5.2.4 "Device configuration layout").</summary>
/// <param name="Sectors">Its capacity in sectors of 512 bytes, whatever its block size is.</param>
/// <param name="BlockSize">Bytes of a logical block: requests are whole blocks. 512 where the device does not tell.</param>
/// <param name="MaxSegmentBytes">Bytes of the largest piece of a request, or null where there is no limit.</param>
/// <param name="MaxSegments">Pieces of data of the largest request. 1 where the device does not tell.</param>
/// <param name="Topology">How blocks lie on the medium, or null where the device does not tell.</param>
/// <param name="IsReadOnly">Whether it refuses writes.</param>
/// <param name="HasFlush">Whether it has a cache to flush.</param>
/// <param name="Features">What was negotiated of the transport and the ring.</param>
/// <param name="QueueSize">Entries of the queue in use.</param>
public sealed record VirtioBlockInfo(
    ulong Sectors,
    uint BlockSize,
    uint? MaxSegmentBytes,
    uint MaxSegments,
    VirtioBlockTopology? Topology,
    bool IsReadOnly,
    bool HasFlush,
    VirtioFeatures Features,
    int QueueSize)
{
    /// <summary>Its capacity in bytes.</summary>
    public UInt128 Bytes => (UInt128)Sectors * SectorRange.SectorBytes;
}
