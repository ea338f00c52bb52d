using System.Runtime.InteropServices;

namespace Vfio.Linux;

[Header("linux/vfio.h")]
internal static class vfio
{
    public const int VFIO_API_VERSION = 0;

    public const int VFIO_TYPE1_IOMMU = 1;
    public const int VFIO_TYPE1v2_IOMMU = 3;
    public const int VFIO_DMA_CC_IOMMU = 4;
    public const int VFIO_NOIOMMU_IOMMU = 8;
    public const int VFIO_UNMAP_ALL = 9;
    public const int VFIO_UPDATE_VADDR = 10;

    public const uint VFIO_GET_API_VERSION = 0x3b64;
    public const uint VFIO_CHECK_EXTENSION = 0x3b65;
    public const uint VFIO_SET_IOMMU = 0x3b66;
    public const uint VFIO_GROUP_GET_STATUS = 0x3b67;
    public const uint VFIO_GROUP_SET_CONTAINER = 0x3b68;
    public const uint VFIO_GROUP_UNSET_CONTAINER = 0x3b69;
    public const uint VFIO_GROUP_GET_DEVICE_FD = 0x3b6a;
    public const uint VFIO_DEVICE_GET_INFO = 0x3b6b;
    public const uint VFIO_DEVICE_GET_REGION_INFO = 0x3b6c;
    public const uint VFIO_DEVICE_GET_IRQ_INFO = 0x3b6d;
    public const uint VFIO_DEVICE_SET_IRQS = 0x3b6e;
    public const uint VFIO_DEVICE_RESET = 0x3b6f;
    public const uint VFIO_IOMMU_GET_INFO = 0x3b70;
    public const uint VFIO_IOMMU_MAP_DMA = 0x3b71;
    public const uint VFIO_IOMMU_UNMAP_DMA = 0x3b72;
    public const uint VFIO_IOMMU_DIRTY_PAGES = 0x3b75;

    public const uint VFIO_GROUP_FLAGS_VIABLE = 1;
    public const uint VFIO_GROUP_FLAGS_CONTAINER_SET = 2;

    public const uint VFIO_DEVICE_FLAGS_RESET = 1;
    public const uint VFIO_DEVICE_FLAGS_PCI = 2;

    public const uint VFIO_REGION_INFO_FLAG_READ = 1;
    public const uint VFIO_REGION_INFO_FLAG_WRITE = 2;
    public const uint VFIO_REGION_INFO_FLAG_MMAP = 4;
    public const uint VFIO_REGION_INFO_FLAG_CAPS = 8;
    public const ushort VFIO_REGION_INFO_CAP_SPARSE_MMAP = 1;
    public const ushort VFIO_REGION_INFO_CAP_MSIX_MAPPABLE = 3;

    public const uint VFIO_PCI_BAR0_REGION_INDEX = 0;
    public const uint VFIO_PCI_BAR5_REGION_INDEX = 5;
    public const uint VFIO_PCI_ROM_REGION_INDEX = 6;
    public const uint VFIO_PCI_CONFIG_REGION_INDEX = 7;
    public const uint VFIO_PCI_INTX_IRQ_INDEX = 0;
    public const uint VFIO_PCI_MSI_IRQ_INDEX = 1;
    public const uint VFIO_PCI_MSIX_IRQ_INDEX = 2;

    public const uint VFIO_IRQ_INFO_EVENTFD = 1;
    public const uint VFIO_IRQ_INFO_MASKABLE = 2;
    public const uint VFIO_IRQ_INFO_AUTOMASKED = 4;
    public const uint VFIO_IRQ_INFO_NORESIZE = 8;
    public const uint VFIO_IRQ_SET_DATA_NONE = 1;
    public const uint VFIO_IRQ_SET_DATA_BOOL = 2;
    public const uint VFIO_IRQ_SET_DATA_EVENTFD = 4;
    public const uint VFIO_IRQ_SET_ACTION_MASK = 8;
    public const uint VFIO_IRQ_SET_ACTION_UNMASK = 16;
    public const uint VFIO_IRQ_SET_ACTION_TRIGGER = 32;

    public const uint VFIO_IOMMU_INFO_PGSIZES = 1;
    public const uint VFIO_IOMMU_INFO_CAPS = 2;
    public const ushort VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE = 1;
    public const ushort VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION = 2;
    public const ushort VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL = 3;

    public const uint VFIO_DMA_MAP_FLAG_READ = 1;
    public const uint VFIO_DMA_MAP_FLAG_WRITE = 2;
    public const uint VFIO_DMA_MAP_FLAG_VADDR = 4;
    public const uint VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP = 1;
    public const uint VFIO_DMA_UNMAP_FLAG_ALL = 2;
    public const uint VFIO_DMA_UNMAP_FLAG_VADDR = 4;

    public const uint VFIO_IOMMU_DIRTY_PAGES_FLAG_START = 1;
    public const uint VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP = 2;
    public const uint VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP = 4;
}

[Header("linux/vfio.h")]
[StructLayout(LayoutKind.Sequential)]
internal struct vfio_info_cap_header
{
    public ushort id;
    public ushort version;
    public uint next;
}

[Header("linux/vfio.h")]
[StructLayout(LayoutKind.Sequential)]
internal struct vfio_group_status
{
    public uint argsz;
    public uint flags;
}

[Header("linux/vfio.h")]
[StructLayout(LayoutKind.Sequential)]
internal struct vfio_device_info
{
    public uint argsz;
    public uint flags;
    public uint num_regions;
    public uint num_irqs;
    public uint cap_offset;
    // The kernel grew the struct by a pad after cap_offset (6.7); 20 bytes without it serve every kernel.
}

[Header("linux/vfio.h")]
[StructLayout(LayoutKind.Sequential)]
internal struct vfio_region_info
{
    public uint argsz;
    public uint flags;
    public uint index;
    public uint cap_offset;
    public ulong size;
    public ulong offset;
}

[Header("linux/vfio.h")]
[StructLayout(LayoutKind.Sequential)]
internal struct vfio_region_sparse_mmap_area
{
    public ulong offset;
    public ulong size;
}

[Header("linux/vfio.h")]
[StructLayout(LayoutKind.Sequential)]
internal struct vfio_region_info_cap_sparse_mmap
{
    public vfio_info_cap_header header;
    public uint nr_areas;
    public uint reserved;
    // followed by nr_areas of vfio_region_sparse_mmap_area
}

[Header("linux/vfio.h")]
[StructLayout(LayoutKind.Sequential)]
internal struct vfio_irq_info
{
    public uint argsz;
    public uint flags;
    public uint index;
    public uint count;
}

[Header("linux/vfio.h")]
[StructLayout(LayoutKind.Sequential)]
internal struct vfio_irq_set
{
    public uint argsz;
    public uint flags;
    public uint index;
    public uint start;
    public uint count;
    // followed by count of int (eventfds), byte (bool) or nothing
}

[Header("linux/vfio.h")]
[StructLayout(LayoutKind.Sequential)]
internal struct vfio_iommu_type1_info
{
    public uint argsz;
    public uint flags;
    public ulong iova_pgsizes;
    public uint cap_offset;
}

[Header("linux/vfio.h")]
[StructLayout(LayoutKind.Sequential)]
internal struct vfio_iova_range
{
    public ulong start;
    public ulong end;
}

[Header("linux/vfio.h")]
[StructLayout(LayoutKind.Sequential)]
internal struct vfio_iommu_type1_info_cap_iova_range
{
    public vfio_info_cap_header header;
    public uint nr_iovas;
    public uint reserved;
    // followed by nr_iovas of vfio_iova_range
}

[Header("linux/vfio.h")]
[StructLayout(LayoutKind.Sequential)]
internal struct vfio_iommu_type1_info_cap_migration
{
    public vfio_info_cap_header header;
    public uint flags;
    public ulong pgsize_bitmap;
    public ulong max_dirty_bitmap_size;
}

[Header("linux/vfio.h")]
[StructLayout(LayoutKind.Sequential)]
internal struct vfio_iommu_type1_info_dma_avail
{
    public vfio_info_cap_header header;
    public uint avail;
}

[Header("linux/vfio.h")]
[StructLayout(LayoutKind.Sequential)]
internal struct vfio_iommu_type1_dma_map
{
    public uint argsz;
    public uint flags;
    public ulong vaddr;
    public ulong iova;
    public ulong size;
}

[Header("linux/vfio.h")]
[StructLayout(LayoutKind.Sequential)]
internal struct vfio_bitmap
{
    public ulong pgsize;
    public ulong size;
    public ulong data;
}

[Header("linux/vfio.h")]
[StructLayout(LayoutKind.Sequential)]
internal struct vfio_iommu_type1_dma_unmap
{
    public uint argsz;
    public uint flags;
    public ulong iova;
    public ulong size;
    // followed by vfio_bitmap when VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP is set
}

[Header("linux/vfio.h")]
[StructLayout(LayoutKind.Sequential)]
internal struct vfio_iommu_type1_dirty_bitmap
{
    public uint argsz;
    public uint flags;
    // followed by vfio_iommu_type1_dirty_bitmap_get when GET_BITMAP is set
}

[Header("linux/vfio.h")]
[StructLayout(LayoutKind.Sequential)]
internal struct vfio_iommu_type1_dirty_bitmap_get
{
    public ulong iova;
    public ulong size;
    public vfio_bitmap bitmap;
}
