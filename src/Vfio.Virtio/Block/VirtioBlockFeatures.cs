using Vfio.Linux;

namespace Vfio.Virtio;

/// <summary>Feature bits of a block device (virtio 1.3, 5.2.3 "Feature bits"), over the same 64 bits as
/// <see cref="VirtioFeatures"/>.</summary>
[Flags]
public enum VirtioBlockFeatures : ulong
{
    /// <summary>No feature.</summary>
    None = 0,

    /// <summary>A piece of a request has a largest size.</summary>
    SizeMax = 1UL << virtio_blk.VIRTIO_BLK_F_SIZE_MAX,

    /// <summary>A request has a largest number of pieces.</summary>
    SegMax = 1UL << virtio_blk.VIRTIO_BLK_F_SEG_MAX,

    /// <summary>It cannot be written.</summary>
    ReadOnly = 1UL << virtio_blk.VIRTIO_BLK_F_RO,

    /// <summary>It tells its block size.</summary>
    BlockSize = 1UL << virtio_blk.VIRTIO_BLK_F_BLK_SIZE,

    /// <summary>It can flush its cache.</summary>
    Flush = 1UL << virtio_blk.VIRTIO_BLK_F_FLUSH,

    /// <summary>It tells how its blocks lie on the medium.</summary>
    Topology = 1UL << virtio_blk.VIRTIO_BLK_F_TOPOLOGY,
}
