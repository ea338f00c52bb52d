namespace Vfio.Linux;

[Header("linux/virtio_config.h")]
internal static class virtio_config
{
    public const byte VIRTIO_CONFIG_S_ACKNOWLEDGE = 1;
    public const byte VIRTIO_CONFIG_S_DRIVER = 2;
    public const byte VIRTIO_CONFIG_S_DRIVER_OK = 4;
    public const byte VIRTIO_CONFIG_S_FEATURES_OK = 8;
    public const byte VIRTIO_CONFIG_S_NEEDS_RESET = 0x40;
    public const byte VIRTIO_CONFIG_S_FAILED = 0x80;
    public const int VIRTIO_F_VERSION_1 = 32;
    public const int VIRTIO_F_ACCESS_PLATFORM = 33;
    public const int VIRTIO_F_RING_PACKED = 34;
    public const int VIRTIO_F_IN_ORDER = 35;
    public const int VIRTIO_F_ORDER_PLATFORM = 36;
}
