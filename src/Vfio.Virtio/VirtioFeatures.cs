using Vfio.Linux;

namespace Vfio.Virtio;

/// <summary>Feature bits of the ring and of the transport, the same for every device type (virtio 1.3, 6 "Reserved Feature
/// Bits"). Bits below 24 and from 50 up belong to the device type and have their own enumerations over the same 64 bits.</summary>
[Flags]
public enum VirtioFeatures : ulong
{
    /// <summary>No feature.</summary>
    None = 0,

    /// <summary>Descriptors may point to tables of descriptors.</summary>
    RingIndirectDesc = 1UL << virtio_ring.VIRTIO_RING_F_INDIRECT_DESC,

    /// <summary>Each side names the position at which it wants the next notification.</summary>
    RingEventIdx = 1UL << virtio_ring.VIRTIO_RING_F_EVENT_IDX,

    /// <summary>The device follows virtio 1.0 or later.</summary>
    Version1 = 1UL << virtio_config.VIRTIO_F_VERSION_1,

    /// <summary>The device reaches memory only through the platform's IOMMU: addresses in rings are IOVAs.</summary>
    AccessPlatform = 1UL << virtio_config.VIRTIO_F_ACCESS_PLATFORM,

    /// <summary>The packed ring layout.</summary>
    RingPacked = 1UL << virtio_config.VIRTIO_F_RING_PACKED,

    /// <summary>Buffers are used in the order in which they were made available.</summary>
    InOrder = 1UL << virtio_config.VIRTIO_F_IN_ORDER,

    /// <summary>Memory accesses are ordered as the platform orders those of devices, not as those of processors.</summary>
    OrderPlatform = 1UL << virtio_config.VIRTIO_F_ORDER_PLATFORM,
}
