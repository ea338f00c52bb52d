using Vfio.Linux;

namespace Vfio.Testing;

/// <content>VFIO_IOMMU_MAP_DMA and VFIO_IOMMU_UNMAP_DMA.</content>
public abstract unsafe partial class Type1ConformanceTests
{
    [TestMethod]
    public void Map_refuses_what_is_malformed()
    {
        using RawVfio raw = Attached();
        using MappedMemory memory = Memory(2);
        ulong address = (ulong)memory.Address;
        AssertErrno(Errno.EINVAL, raw.Map(Base, address, Page, argsz: 31), "argsz too small");
        AssertErrno(Errno.EINVAL, raw.Map(Base, address, Page, ReadWrite | 8), "unknown flag");
        AssertErrno(Errno.EINVAL, raw.Map(Base, address, Page, 0), "neither read nor write");
        AssertErrno(Errno.EINVAL, raw.Map(Base, address, Page, ReadWrite | vfio.VFIO_DMA_MAP_FLAG_VADDR), "access with VADDR");
        AssertErrno(Errno.EINVAL, raw.Map(Base, address, 0), "size 0");
        AssertErrno(Errno.EINVAL, raw.Map(Base, address, Page + 1), "size unaligned");
        AssertErrno(Errno.EINVAL, raw.Map(Base + 512, address, Page), "iova unaligned");
        AssertErrno(Errno.EINVAL, raw.Map(Base, address + 512, Page), "vaddr unaligned");
        AssertErrno(WhenWrapping, raw.Map(ulong.MaxValue - Page + 1, address, 2 * Page), "iova wraps");
        AssertErrno(WhenWrapping, raw.Map(Base, ulong.MaxValue - Page + 1, 2 * Page), "vaddr wraps");
        Assert.AreEqual(-(int)Errno.EFAULT, raw.Ioctl(vfio.VFIO_IOMMU_MAP_DMA, null));
    }

    [TestMethod]
    public void Map_tests_overlap_before_limits_and_ranges()
    {
        using RawVfio raw = Attached();
        using MappedMemory memory = Memory(4);
        ulong address = (ulong)memory.Address;
        AssertErrno(Errno.None, raw.Map(Base, address, 2 * Page), "MAP_DMA");
        AssertErrno(Errno.EEXIST, raw.Map(Base, address, 2 * Page), "the same again");
        AssertErrno(Errno.EEXIST, raw.Map(Base + Page, address, 2 * Page), "overlap at the end");
        AssertErrno(Errno.EEXIST, raw.Map(Base - Page, address, 2 * Page), "overlap at the start");
        AssertErrno(Errno.EEXIST, raw.Map(Base, address + Page, Page), "inside");
        AssertErrno(Errno.EEXIST, raw.Map(Base, 0x1000, Page), "overlap and a bad address");
        AssertErrno(Errno.None, raw.Map(Base + (2 * Page), address, 2 * Page), "the same memory at another iova");
        AssertErrno(Errno.None, raw.Unmap(Base, 4 * Page), "UNMAP_DMA");
    }

    [TestMethod]
    public void Map_stays_inside_one_valid_range()
    {
        using RawVfio raw = Attached();
        using MappedMemory memory = Memory(2);
        RawType1Info info = raw.GetInfo();
        IovaRange first = info.Ranges[0];
        AssertErrno(Errno.EINVAL, raw.Map(first.Last.Value + 1, memory), "just behind a range");
        AssertErrno(Errno.EINVAL, raw.Map(first.Last.Value + 1 - Page, memory), "over the end of a range");
        AssertErrno(Errno.None, raw.Map(first.Last.Value + 1 - (2 * Page), memory), "up to the end of a range");
        AssertErrno(Errno.EINVAL, raw.Map(info.Ranges[^1].Last.Value + 1, memory), "behind the last range");
    }

    [TestMethod]
    public void Map_takes_entries_and_ends_at_the_limit()
    {
        uint before;
        using (RawVfio raw = Attached())
        {
            before = raw.GetInfo().Available;
        }

        SetEntryLimit(3);
        try
        {
            using RawVfio raw = Attached();
            using MappedMemory memory = Memory(1);
            for (uint i = 0; i < 3; i++)
            {
                Assert.AreEqual(3 - i, raw.GetInfo().Available);
                AssertErrno(Errno.None, raw.Map(Base + (i * Page), memory), "MAP_DMA");
            }

            Assert.AreEqual(0u, raw.GetInfo().Available);
            AssertErrno(Errno.ENOSPC, raw.Map(Base + (3 * Page), memory), "no entries left");
            AssertErrno(Errno.ENOSPC, raw.Map(0xfee0_0000, memory), "entries are tested before ranges");
            AssertErrno(Errno.EEXIST, raw.Map(Base, memory), "overlap is tested before entries");
            AssertErrno(Errno.None, raw.Unmap(Base, 3 * Page), "UNMAP_DMA");
            Assert.AreEqual(3u, raw.GetInfo().Available);
        }
        finally
        {
            SetEntryLimit(before);
        }
    }

    [TestMethod]
    public void Map_needs_memory_that_is_there_and_changes_nothing_when_it_fails()
    {
        using RawVfio raw = Attached();
        uint before = raw.GetInfo().Available;
        using MappedMemory memory = Memory(4);
        ulong address = (ulong)memory.Address;
        AssertErrno(Errno.EFAULT, raw.Map(Base, 0x1000, Page), "nothing is mapped there");
        AssertErrno(Errno.EFAULT, raw.Map(Base, 0xffff_8000_0000_0000, Page), "a kernel address");
        Assert.AreEqual(0, LibC.mprotect((nint)address + (2 * (nint)Page), (nuint)Page, Mman.PROT_READ));
        AssertErrno(Errno.EFAULT, raw.Map(Base, memory), "a page that cannot be written, in the middle");
        Assert.AreEqual(before, raw.GetInfo().Available);
        AssertErrno(Errno.None, raw.Map(Base, memory, vfio.VFIO_DMA_MAP_FLAG_READ), "for reading all of it is good");
        AssertErrno(Errno.None, raw.Unmap(Base, 4 * Page), "UNMAP_DMA");
        Assert.AreEqual(0, LibC.mprotect((nint)address + (2 * (nint)Page), (nuint)Page, Mman.PROT_NONE));
        AssertErrno(Errno.EFAULT, raw.Map(Base, memory, vfio.VFIO_DMA_MAP_FLAG_READ), "a page that cannot be read");
        AssertErrno(Errno.None, raw.Map(Base, address, 2 * Page), "up to the bad page");
    }

    [TestMethod]
    public void Unmap_refuses_what_is_malformed()
    {
        using RawVfio raw = Attached();
        const uint All = vfio.VFIO_DMA_UNMAP_FLAG_ALL;
        const uint Bitmap = vfio.VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP;
        AssertErrno(Errno.EINVAL, raw.Unmap(Base, Page, argsz: 23), "argsz too small");
        AssertErrno(Errno.EINVAL, raw.Unmap(Base, Page, 8), "unknown flag");
        AssertErrno(Errno.EINVAL, raw.Unmap(Base, Page, All), "ALL with a range");
        AssertErrno(Errno.EINVAL, raw.Unmap(0, Page, All), "ALL with a size");
        AssertErrno(Errno.EINVAL, raw.Unmap(0, 0, All | Bitmap, 48), "ALL with a bitmap");
        AssertErrno(Errno.EINVAL, raw.Unmap(Base, Page, vfio.VFIO_DMA_UNMAP_FLAG_VADDR | Bitmap, 48), "VADDR with a bitmap");
        AssertErrno(Errno.EINVAL, raw.Unmap(Base, Page, Bitmap), "a bitmap and no room for it");
        AssertErrno(Errno.EINVAL, raw.Unmap(Base, 0), "size 0");
        AssertErrno(Errno.EINVAL, raw.Unmap(Base, Page - 1), "size unaligned");
        AssertErrno(Errno.EINVAL, raw.Unmap(Base + 1, Page), "iova unaligned");
        AssertErrno(WhenWrapping, raw.Unmap(ulong.MaxValue - Page + 1, 2 * Page), "iova wraps");
        Assert.AreEqual(-(int)Errno.EFAULT, raw.Ioctl(vfio.VFIO_IOMMU_UNMAP_DMA, null));
    }

    [TestMethod]
    public void Unmap_says_how_much_and_never_cuts_a_mapping()
    {
        using RawVfio raw = Attached();
        using MappedMemory memory = Memory(4);
        ulong address = (ulong)memory.Address;
        AssertErrno(Errno.None, raw.Unmap(Base, Page, out ulong unmapped), "nothing is mapped");
        Assert.AreEqual(0ul, unmapped);
        AssertErrno(Errno.None, raw.Map(Base, address, 2 * Page), "MAP_DMA");
        AssertErrno(Errno.None, raw.Map(Base + (4 * Page), address + (2 * Page), 2 * Page), "MAP_DMA");

        AssertErrno(Errno.EINVAL, raw.Unmap(Base, Page, out unmapped), "the first half");
        Assert.AreEqual(Page, unmapped, "nothing is written back");
        AssertErrno(Errno.EINVAL, raw.Unmap(Base + Page, Page), "the second half");
        AssertErrno(Errno.EINVAL, raw.Unmap(Base + Page, 4 * Page), "from inside one mapping into the next");
        AssertErrno(Errno.EINVAL, raw.Unmap(Base, 5 * Page), "one mapping and half of the next");
        AssertErrno(Errno.None, raw.Unmap(Base - Page, 8 * Page, out unmapped), "both, and what is around them");
        Assert.AreEqual(4 * Page, unmapped);
        AssertErrno(Errno.None, raw.Unmap(Base, 6 * Page, out unmapped), "both again");
        Assert.AreEqual(0ul, unmapped);
    }

    [TestMethod]
    public void Unmap_all_takes_everything()
    {
        using RawVfio raw = Attached();
        using MappedMemory memory = Memory(3);
        ulong address = (ulong)memory.Address;
        AssertErrno(Errno.None, raw.Map(0, address, Page), "MAP_DMA at 0");
        AssertErrno(Errno.None, raw.Map(Base, address + Page, 2 * Page), "MAP_DMA");
        AssertErrno(Errno.None, raw.Unmap(0, 0, out ulong unmapped, vfio.VFIO_DMA_UNMAP_FLAG_ALL), "UNMAP_DMA of all");
        Assert.AreEqual(3 * Page, unmapped);
        AssertErrno(Errno.None, raw.Unmap(0, 0, out unmapped, vfio.VFIO_DMA_UNMAP_FLAG_ALL), "of nothing");
        Assert.AreEqual(0ul, unmapped);
    }

    [TestMethod]
    public void Version_1_unmaps_nothing_from_inside_a_mapping_and_says_success()
    {
        using RawVfio raw = Attached(vfio.VFIO_TYPE1_IOMMU);
        using MappedMemory memory = Memory(4);
        AssertErrno(Errno.None, raw.Map(Base, memory), "MAP_DMA");
        AssertErrno(Errno.None, raw.Unmap(Base + Page, Page, out ulong unmapped), "from inside");
        Assert.AreEqual(0ul, unmapped);
        AssertErrno(Errno.None, raw.Unmap(Base, Page, out unmapped), "the first page");
        Assert.AreEqual(4 * Page, unmapped, "the whole mapping goes");
        AssertErrno(Errno.EACCES, raw.Dirty(vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_START), "DIRTY_PAGES in version 1");
    }

    [TestMethod]
    public void Host_address_is_exchanged_while_the_mapping_stays()
    {
        using RawVfio raw = Attached();
        using MappedMemory memory = Memory(2);
        ulong address = (ulong)memory.Address;
        const uint NewAddress = vfio.VFIO_DMA_MAP_FLAG_VADDR;
        const uint Invalidate = vfio.VFIO_DMA_UNMAP_FLAG_VADDR;
        AssertErrno(Errno.ENOENT, raw.Map(Base, address, Page, NewAddress), "no mapping");
        AssertErrno(Errno.None, raw.Map(Base, address, Page), "MAP_DMA");
        AssertErrno(Errno.EINVAL, raw.Map(Base, address, Page, NewAddress), "its address is valid");
        AssertErrno(Errno.None, raw.Unmap(Base, Page, out ulong size, Invalidate), "UNMAP_DMA with VADDR");
        Assert.AreEqual(Page, size);
        AssertErrno(Errno.EINVAL, raw.Unmap(Base, Page, Invalidate), "it is invalid already");
        AssertErrno(Errno.EINVAL, raw.Map(Base, address, 2 * Page, NewAddress), "another size");
        AssertErrno(Errno.EEXIST, raw.Map(Base, address, Page), "the mapping is still there");
        AssertErrno(Errno.None, raw.Map(Base, address, Page, NewAddress), "MAP_DMA with VADDR");
        AssertErrno(Errno.None, raw.Unmap(Base, Page, out size), "UNMAP_DMA");
        Assert.AreEqual(Page, size);
    }
}
