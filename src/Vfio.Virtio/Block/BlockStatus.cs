using Vfio.Linux;

namespace Vfio.Virtio;

/// <summary>How the device ended a request (virtio 1.3, 5.2.6 "Device Operation").</summary>
public enum BlockStatus
{
    /// <summary>Done (VIRTIO_BLK_S_OK).</summary>
    Ok = virtio_blk.VIRTIO_BLK_S_OK,

    /// <summary>Failed (VIRTIO_BLK_S_IOERR).</summary>
    IoError = virtio_blk.VIRTIO_BLK_S_IOERR,

    /// <summary>Not supported (VIRTIO_BLK_S_UNSUPP).</summary>
    Unsupported = virtio_blk.VIRTIO_BLK_S_UNSUPP,
}
