using Vfio.Linux;

namespace Vfio.Testing;

/// <summary>The names of VFIO's ioctls.</summary>
internal static class IoctlNames
{
    public static string Of(uint request, SimFile? file) => request switch
    {
        vfio.VFIO_GET_API_VERSION => nameof(vfio.VFIO_GET_API_VERSION),
        vfio.VFIO_CHECK_EXTENSION => nameof(vfio.VFIO_CHECK_EXTENSION),
        vfio.VFIO_SET_IOMMU => nameof(vfio.VFIO_SET_IOMMU),
        vfio.VFIO_GROUP_GET_STATUS => nameof(vfio.VFIO_GROUP_GET_STATUS),
        vfio.VFIO_GROUP_SET_CONTAINER => nameof(vfio.VFIO_GROUP_SET_CONTAINER),
        vfio.VFIO_GROUP_UNSET_CONTAINER => nameof(vfio.VFIO_GROUP_UNSET_CONTAINER),
        vfio.VFIO_GROUP_GET_DEVICE_FD => nameof(vfio.VFIO_GROUP_GET_DEVICE_FD),
        vfio.VFIO_DEVICE_GET_INFO => nameof(vfio.VFIO_DEVICE_GET_INFO),
        vfio.VFIO_DEVICE_GET_REGION_INFO => nameof(vfio.VFIO_DEVICE_GET_REGION_INFO),
        vfio.VFIO_DEVICE_GET_IRQ_INFO => nameof(vfio.VFIO_DEVICE_GET_IRQ_INFO),
        vfio.VFIO_DEVICE_SET_IRQS => nameof(vfio.VFIO_DEVICE_SET_IRQS),
        vfio.VFIO_DEVICE_RESET => nameof(vfio.VFIO_DEVICE_RESET),
        vfio.VFIO_IOMMU_GET_INFO => nameof(vfio.VFIO_IOMMU_GET_INFO),
        vfio.VFIO_IOMMU_MAP_DMA => nameof(vfio.VFIO_IOMMU_MAP_DMA),
        vfio.VFIO_IOMMU_UNMAP_DMA => nameof(vfio.VFIO_IOMMU_UNMAP_DMA),
        // The same number is VFIO_DEVICE_FEATURE on a device.
        vfio.VFIO_IOMMU_DIRTY_PAGES when file is not SimDeviceFile => nameof(vfio.VFIO_IOMMU_DIRTY_PAGES),
        _ => $"ioctl 0x{request:x}",
    };
}
