using Vfio.Linux;

namespace Vfio.Virtio;

/// <summary>Feature bits of a network device (virtio 1.3, 5.1.3 "Feature bits"), over the same 64 bits as <see cref="VirtioFeatures"/>.</summary>
[Flags]
public enum NetFeatures : ulong
{
    /// <summary>No feature.</summary>
    None = 0,

    /// <summary>The device takes frames whose checksum is not finished.</summary>
    Csum = 1UL << virtio_net.VIRTIO_NET_F_CSUM,

    /// <summary>The driver takes frames whose checksum is not finished.</summary>
    GuestCsum = 1UL << virtio_net.VIRTIO_NET_F_GUEST_CSUM,

    /// <summary>The device says its MTU.</summary>
    Mtu = 1UL << virtio_net.VIRTIO_NET_F_MTU,

    /// <summary>The device says its MAC address.</summary>
    Mac = 1UL << virtio_net.VIRTIO_NET_F_MAC,

    /// <summary>The driver takes TCP segments over IPv4 that are larger than the MTU.</summary>
    GuestTso4 = 1UL << virtio_net.VIRTIO_NET_F_GUEST_TSO4,

    /// <summary>The same over IPv6.</summary>
    GuestTso6 = 1UL << virtio_net.VIRTIO_NET_F_GUEST_TSO6,

    /// <summary>The same with explicit congestion notification.</summary>
    GuestEcn = 1UL << virtio_net.VIRTIO_NET_F_GUEST_ECN,

    /// <summary>The device takes TCP segments over IPv4 that are larger than the MTU.</summary>
    HostTso4 = 1UL << virtio_net.VIRTIO_NET_F_HOST_TSO4,

    /// <summary>The same over IPv6.</summary>
    HostTso6 = 1UL << virtio_net.VIRTIO_NET_F_HOST_TSO6,

    /// <summary>The same with explicit congestion notification.</summary>
    HostEcn = 1UL << virtio_net.VIRTIO_NET_F_HOST_ECN,

    /// <summary>A received frame may lie over several buffers.</summary>
    MrgRxbuf = 1UL << virtio_net.VIRTIO_NET_F_MRG_RXBUF,

    /// <summary>Configuration space has the link's status.</summary>
    Status = 1UL << virtio_net.VIRTIO_NET_F_STATUS,

    /// <summary>There is a control queue.</summary>
    CtrlVq = 1UL << virtio_net.VIRTIO_NET_F_CTRL_VQ,

    /// <summary>The driver announces itself when asked.</summary>
    GuestAnnounce = 1UL << virtio_net.VIRTIO_NET_F_GUEST_ANNOUNCE,

    /// <summary>More than one pair of queues.</summary>
    Mq = 1UL << virtio_net.VIRTIO_NET_F_MQ,
}
