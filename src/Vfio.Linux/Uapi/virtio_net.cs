namespace Vfio.Linux;

[Header("linux/virtio_net.h")]
internal static class virtio_net
{
    public const int VIRTIO_NET_F_CSUM = 0;
    public const int VIRTIO_NET_F_GUEST_CSUM = 1;
    public const int VIRTIO_NET_F_MTU = 3;
    public const int VIRTIO_NET_F_MAC = 5;
    public const int VIRTIO_NET_F_GUEST_TSO4 = 7;
    public const int VIRTIO_NET_F_GUEST_TSO6 = 8;
    public const int VIRTIO_NET_F_GUEST_ECN = 9;
    public const int VIRTIO_NET_F_HOST_TSO4 = 11;
    public const int VIRTIO_NET_F_HOST_TSO6 = 12;
    public const int VIRTIO_NET_F_HOST_ECN = 13;
    public const int VIRTIO_NET_F_MRG_RXBUF = 15;
    public const int VIRTIO_NET_F_STATUS = 16;
    public const int VIRTIO_NET_F_CTRL_VQ = 17;
    public const int VIRTIO_NET_F_GUEST_ANNOUNCE = 21;
    public const int VIRTIO_NET_F_MQ = 22;
    public const byte VIRTIO_NET_HDR_F_NEEDS_CSUM = 1;
    public const byte VIRTIO_NET_HDR_F_DATA_VALID = 2;
    public const byte VIRTIO_NET_HDR_GSO_NONE = 0;
    public const byte VIRTIO_NET_HDR_GSO_TCPV4 = 1;
    public const byte VIRTIO_NET_HDR_GSO_TCPV6 = 4;
    public const byte VIRTIO_NET_HDR_GSO_ECN = 0x80;
    public const ushort VIRTIO_NET_S_LINK_UP = 1;
}
