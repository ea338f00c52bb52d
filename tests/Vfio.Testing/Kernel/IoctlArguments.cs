using System.Runtime.InteropServices;
using Vfio.Linux;

namespace Vfio.Testing;

/// <summary>Writes an ioctl's argument as a person would read it.</summary>
internal static unsafe class IoctlArguments
{
    public static string Describe(uint request, void* argument)
    {
        switch (request)
        {
            case vfio.VFIO_IOMMU_MAP_DMA when UserMemory.TryRead(argument, out vfio_iommu_type1_dma_map map):
                return $"argsz {map.argsz}, flags 0x{map.flags:x}, vaddr 0x{map.vaddr:x}, iova 0x{map.iova:x}, size 0x{map.size:x}";
            case vfio.VFIO_IOMMU_UNMAP_DMA when UserMemory.TryRead(argument, out vfio_iommu_type1_dma_unmap unmap):
                return $"argsz {unmap.argsz}, flags 0x{unmap.flags:x}, iova 0x{unmap.iova:x}, size 0x{unmap.size:x}";
            case vfio.VFIO_DEVICE_GET_REGION_INFO when UserMemory.TryRead(argument, out vfio_region_info region):
                return $"argsz {region.argsz}, index {region.index}";
            case vfio.VFIO_DEVICE_GET_IRQ_INFO when UserMemory.TryRead(argument, out vfio_irq_info irq):
                return $"argsz {irq.argsz}, index {irq.index}";
            case vfio.VFIO_DEVICE_SET_IRQS when UserMemory.TryRead(argument, out vfio_irq_set set):
                return $"argsz {set.argsz}, flags 0x{set.flags:x}, index {set.index}, start {set.start}, count {set.count}";
            case vfio.VFIO_IOMMU_DIRTY_PAGES
                when UserMemory.TryRead(argument, out vfio_iommu_type1_dirty_bitmap dirty) && dirty.flags == vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP
                    && UserMemory.TryRead((byte*)argument + sizeof(vfio_iommu_type1_dirty_bitmap), out vfio_iommu_type1_dirty_bitmap_get get):
                return $"get bitmap of iova 0x{get.iova:x}, {get.size} bytes";
            case vfio.VFIO_IOMMU_DIRTY_PAGES or vfio.VFIO_IOMMU_GET_INFO or vfio.VFIO_DEVICE_GET_INFO or vfio.VFIO_GROUP_GET_STATUS
                when UserMemory.TryRead(argument, out ulong sizeAndFlags):
                return $"argsz {sizeAndFlags & uint.MaxValue}, flags 0x{sizeAndFlags >> 32:x}";
            case vfio.VFIO_GROUP_SET_CONTAINER when UserMemory.TryRead(argument, out int container):
                return $"{container}";
            case vfio.VFIO_GROUP_GET_DEVICE_FD when UserMemory.CanRead((ulong)argument, 1):
                return Marshal.PtrToStringUTF8((nint)argument) ?? string.Empty;
            default:
                return $"{(nint)argument}";
        }
    }
}
