namespace Vfio.Virtio;

/// <summary>What a device does with the buffers of a ring. A driver that offers others has broken the ring: they cannot be used, and
/// nobody would find out why nothing arrives.</summary>
// virtio 1.3, 2.7.5.1 "Device Requirements: The Virtqueue Descriptor Table": it never writes a device-readable buffer, and should not
// read a device-writable one.
public enum BufferUse
{
    /// <summary>Reads some and writes others.</summary>
    Both,

    /// <summary>Only reads them, as those of a transmit ring.</summary>
    OnlyReads,

    /// <summary>Only writes them, as those of a receive ring.</summary>
    OnlyWrites,
}
