using System.Runtime.InteropServices;
using Vfio.Linux;

namespace Vfio.Testing;

/// <summary>The answer to VFIO_IOMMU_GET_INFO, walked by its layout.</summary>
public sealed class RawType1Info
{
    public RawType1Info(ReadOnlySpan<byte> bytes)
    {
        var info = MemoryMarshal.Read<vfio_iommu_type1_info>(bytes);
        PageSizes = info.iova_pgsizes;
        Flags = info.flags;
        var ids = new List<int>();
        for (uint offset = info.cap_offset; offset != 0;)
        {
            ReadOnlySpan<byte> capability = bytes[(int)offset..];
            var header = MemoryMarshal.Read<vfio_info_cap_header>(capability);
            Assert.AreEqual(1, header.version);
            ids.Add(header.id);
            switch (header.id)
            {
                case vfio.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE:
                    var ranges = MemoryMarshal.Read<vfio_iommu_type1_info_cap_iova_range>(capability);
                    Ranges = [.. MemoryMarshal.Cast<byte, vfio_iova_range>(capability[16..])[..(int)ranges.nr_iovas].ToArray()
                        .Select(r => new IovaRange(new Iova(r.start), new Iova(r.end)))];
                    break;
                case vfio.VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION:
                    var migration = MemoryMarshal.Read<vfio_iommu_type1_info_cap_migration>(capability);
                    DirtyPageSizes = migration.pgsize_bitmap;
                    LargestBitmap = migration.max_dirty_bitmap_size;
                    break;
                case vfio.VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL:
                    Available = MemoryMarshal.Read<uint>(capability[8..]);
                    break;
            }

            Assert.IsTrue(header.next == 0 || header.next > offset, "a capability chain must lead on");
            offset = header.next;
        }

        Capabilities = ids;
    }

    public uint Flags { get; }

    public ulong PageSizes { get; }

    public IReadOnlyList<int> Capabilities { get; }

    public IReadOnlyList<IovaRange> Ranges { get; } = [];

    public ulong DirtyPageSizes { get; }

    public ulong LargestBitmap { get; }

    public uint Available { get; }
}
