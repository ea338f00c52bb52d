using System.Runtime.InteropServices;
using Vfio.Linux;

namespace Vfio.Testing;

/// <content>VFIO_IOMMU_GET_INFO: vfio_iommu_type1_get_info.</content>
internal sealed unsafe partial class SimIommu
{
    // DIRTY_BITMAP_SIZE_MAX: a bit a page for INT_MAX pages, in bytes.
    private const ulong LargestBitmap = 1ul << 28;

    private long GetInfo(void* argument)
    {
        // The first three fields; cap_offset came later and is written only to those who left room for it.
        const uint Smallest = 16;
        const uint WithCapabilities = 20;
        Span<byte> header = stackalloc byte[sizeof(vfio_iommu_type1_info)];
        if (!UserMemory.TryRead((ulong)argument, header[..(int)Smallest]))
        {
            return -(long)Errno.EFAULT;
        }

        var info = MemoryMarshal.Read<vfio_iommu_type1_info>(header);
        if (info.argsz < Smallest)
        {
            return -(long)Errno.EINVAL;
        }

        uint written = info.argsz >= WithCapabilities ? WithCapabilities : Smallest;
        info.cap_offset = 0;
        info.flags = vfio.VFIO_IOMMU_INFO_PGSIZES | vfio.VFIO_IOMMU_INFO_CAPS;
        info.iova_pgsizes = PageSizes;
        CapabilityChain chain = BuildCapabilities();
        uint needed = (uint)(sizeof(vfio_iommu_type1_info) + chain.Length);
        if (info.argsz < needed)
        {
            info.argsz = needed;
        }
        else
        {
            info.cap_offset = (uint)sizeof(vfio_iommu_type1_info);
            if (!UserMemory.TryWrite((ulong)argument + info.cap_offset, chain.ToBytes(info.cap_offset)))
            {
                return -(long)Errno.EFAULT;
            }
        }

        MemoryMarshal.Write(header, info);
        return UserMemory.TryWrite((ulong)argument, header[..(int)written]) ? 0 : -(long)Errno.EFAULT;
    }

    private CapabilityChain BuildCapabilities()
    {
        var chain = new CapabilityChain(kernel.Behaviour);
        if (!kernel.Behaviour.IsIommufd)
        {
            chain.Add(new vfio_iommu_type1_info_cap_migration
            {
                header = CapabilityChain.Header(vfio.VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION),
                pgsize_bitmap = SmallestPageSize,
                max_dirty_bitmap_size = LargestBitmap,
            });
        }

        chain.Add(new vfio_iommu_type1_info_dma_avail
        {
            header = CapabilityChain.Header(vfio.VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL),
            avail = kernel.Behaviour.IsIommufd ? uint.MaxValue : AvailableEntries,
        });
        if (_validRanges.Count > 0)
        {
            chain.Add(
                new vfio_iommu_type1_info_cap_iova_range
                {
                    header = CapabilityChain.Header(vfio.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE),
                    nr_iovas = (uint)_validRanges.Count,
                },
                MemoryMarshal.AsBytes<vfio_iova_range>(
                    _validRanges.Select(r => new vfio_iova_range { start = r.First.Value, end = r.Last.Value }).ToArray()));
        }

        return chain;
    }
}
