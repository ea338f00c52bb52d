using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Vfio.Linux;

namespace Vfio;

/// <summary>The answer to VFIO_IOMMU_GET_INFO.</summary>
internal sealed record Type1Info(
    IReadOnlyList<IovaRange> ValidRanges, ulong PageSizes, uint? AvailableEntries, DirtyCapability? DirtyTracking)
{
    private const ulong FourKiB = 4096;

    public static Type1Info None { get; } = new([], FourKiB, null, null);

    public static Type1Info Parse(ReadOnlySpan<byte> bytes)
    {
        vfio_iommu_type1_info info = MemoryMarshal.Read<vfio_iommu_type1_info>(bytes);
        // Kernels without the flag predate type1's page sizes; 4 KiB is what every x86-64 and arm64 IOMMU that we serve has.
        ulong pageSizes = (info.flags & vfio.VFIO_IOMMU_INFO_PGSIZES) != 0 && info.iova_pgsizes != 0 ? info.iova_pgsizes : FourKiB;
        // A kernel that tells no ranges (before 5.4) leaves the caller to find out; 39 bits below the interrupt window is what
        // the smallest apertures in the field have.
        IReadOnlyList<IovaRange> ranges = [new(new Iova(0), new Iova(0xfedf_ffff)), new(new Iova(0xfef0_0000), new Iova((1ul << 39) - 1))];
        uint? available = null;
        DirtyCapability? dirty = null;
        uint first = (info.flags & vfio.VFIO_IOMMU_INFO_CAPS) != 0 ? info.cap_offset : 0;
        var capabilities = new Capabilities(bytes, first);
        while (capabilities.MoveNext())
        {
            switch (capabilities.Id)
            {
                case vfio.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE:
                    ranges = ParseRanges(capabilities.Bytes) ?? ranges;
                    break;
                case vfio.VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL
                    when MemoryMarshal.TryRead(capabilities.Bytes, out vfio_iommu_type1_info_dma_avail avail):
                    available = avail.avail;
                    break;
                case vfio.VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION
                    when MemoryMarshal.TryRead(capabilities.Bytes, out vfio_iommu_type1_info_cap_migration migration)
                        && migration.pgsize_bitmap != 0:
                    // The kernel takes the smallest size only (vfio_iommu_type1_dirty_pages).
                    ulong smallest = migration.pgsize_bitmap & (~migration.pgsize_bitmap + 1);
                    dirty = new DirtyCapability(smallest, migration.max_dirty_bitmap_size);
                    break;
                default:
                    break;
            }
        }

        return new Type1Info(ranges, pageSizes, available, dirty);
    }

    private static List<IovaRange>? ParseRanges(ReadOnlySpan<byte> bytes)
    {
        if (!MemoryMarshal.TryRead(bytes, out vfio_iommu_type1_info_cap_iova_range header))
        {
            return null;
        }

        ReadOnlySpan<vfio_iova_range> all = MemoryMarshal.Cast<byte, vfio_iova_range>(bytes[Unsafe.SizeOf<vfio_iommu_type1_info_cap_iova_range>()..]);
        var ranges = new List<IovaRange>();
        foreach (vfio_iova_range range in all[..(int)Math.Min(header.nr_iovas, (uint)all.Length)])
        {
            if (range.end >= range.start)
            {
                ranges.Add(new IovaRange(new Iova(range.start), new Iova(range.end)));
            }
        }

        ranges.Sort((a, b) => a.First.CompareTo(b.First));
        return ranges;
    }
}
