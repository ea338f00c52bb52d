namespace Vfio.Virtio;

/// <summary>What the device may do with a buffer (virtio's words: device-readable, device-writable).</summary>
public enum DeviceAccess
{
    /// <summary>The device only reads it.</summary>
    Read,

    /// <summary>The device only writes it (VIRTQ_DESC_F_WRITE).</summary>
    Write,
}
