using System.Runtime.InteropServices;

namespace Vfio.Linux;

[Header("linux/virtio_pci.h")]
internal static class virtio_pci
{
    public const byte VIRTIO_PCI_ISR_CONFIG = 0x2;
    public const ushort VIRTIO_MSI_NO_VECTOR = 0xffff;
    public const byte VIRTIO_PCI_CAP_COMMON_CFG = 1;
    public const byte VIRTIO_PCI_CAP_NOTIFY_CFG = 2;
    public const byte VIRTIO_PCI_CAP_ISR_CFG = 3;
    public const byte VIRTIO_PCI_CAP_DEVICE_CFG = 4;
    public const byte VIRTIO_PCI_CAP_PCI_CFG = 5;
    public const int VIRTIO_PCI_CAP_NEXT = 1;
    public const int VIRTIO_PCI_CAP_LEN = 2;
    public const int VIRTIO_PCI_CAP_CFG_TYPE = 3;
    public const int VIRTIO_PCI_CAP_BAR = 4;
    public const int VIRTIO_PCI_CAP_OFFSET = 8;
    public const int VIRTIO_PCI_CAP_LENGTH = 12;
    public const int VIRTIO_PCI_NOTIFY_CAP_MULT = 16;
    public const int VIRTIO_PCI_COMMON_DFSELECT = 0;
    public const int VIRTIO_PCI_COMMON_DF = 4;
    public const int VIRTIO_PCI_COMMON_GFSELECT = 8;
    public const int VIRTIO_PCI_COMMON_GF = 12;
    public const int VIRTIO_PCI_COMMON_MSIX = 16;
    public const int VIRTIO_PCI_COMMON_NUMQ = 18;
    public const int VIRTIO_PCI_COMMON_STATUS = 20;
    public const int VIRTIO_PCI_COMMON_CFGGENERATION = 21;
    public const int VIRTIO_PCI_COMMON_Q_SELECT = 22;
    public const int VIRTIO_PCI_COMMON_Q_SIZE = 24;
    public const int VIRTIO_PCI_COMMON_Q_MSIX = 26;
    public const int VIRTIO_PCI_COMMON_Q_ENABLE = 28;
    public const int VIRTIO_PCI_COMMON_Q_NOFF = 30;
    public const int VIRTIO_PCI_COMMON_Q_DESCLO = 32;
    public const int VIRTIO_PCI_COMMON_Q_DESCHI = 36;
    public const int VIRTIO_PCI_COMMON_Q_AVAILLO = 40;
    public const int VIRTIO_PCI_COMMON_Q_AVAILHI = 44;
    public const int VIRTIO_PCI_COMMON_Q_USEDLO = 48;
    public const int VIRTIO_PCI_COMMON_Q_USEDHI = 52;
}

[Header("linux/virtio_pci.h")]
[StructLayout(LayoutKind.Sequential)]
internal struct virtio_pci_common_cfg
{
    public uint device_feature_select;
    public uint device_feature;
    public uint guest_feature_select;
    public uint guest_feature;
    public ushort msix_config;
    public ushort num_queues;
    public byte device_status;
    public byte config_generation;
    public ushort queue_select;
    public ushort queue_size;
    public ushort queue_msix_vector;
    public ushort queue_enable;
    public ushort queue_notify_off;
    public uint queue_desc_lo;
    public uint queue_desc_hi;
    public uint queue_avail_lo;
    public uint queue_avail_hi;
    public uint queue_used_lo;
    public uint queue_used_hi;
}
