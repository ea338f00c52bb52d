using Vfio.Linux;

namespace Vfio.Testing;

/// <content>VFIO_IOMMU_DIRTY_PAGES, and unmapping with a bitmap.</content>
public abstract unsafe partial class Type1ConformanceTests
{
    private const uint Start = vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_START;
    private const uint Stop = vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP;

    [TestMethod]
    public void Tracking_takes_one_flag_at_a_time()
    {
        using RawVfio raw = Attached();
        AssertErrno(Errno.EINVAL, raw.Dirty(Start, argsz: 7), "argsz too small");
        AssertErrno(Errno.EINVAL, raw.Dirty(8), "unknown flag");
        AssertErrno(Errno.EINVAL, raw.Dirty(Start | Stop), "two flags");
        AssertErrno(Errno.EINVAL, raw.Dirty(vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP), "a bitmap and no room for it");
        AssertErrno(Errno.None, raw.Dirty(Stop), "stop what does not run");
        AssertErrno(Errno.None, raw.Dirty(Start), "start");
        AssertErrno(Errno.None, raw.Dirty(Start), "start twice");
        AssertErrno(Errno.None, raw.Dirty(Stop), "stop");
    }

    [TestMethod]
    public void Bitmap_is_for_whole_mappings_and_the_smallest_page()
    {
        using RawVfio raw = Attached();
        using MappedMemory memory = Memory(4);
        AssertErrno(Errno.None, raw.Map(Base, memory), "MAP_DMA");
        ulong[] bitmap = new ulong[1];
        AssertErrno(Errno.EINVAL, raw.GetBitmap(Base, 4 * Page, bitmap), "not tracking");
        AssertErrno(Errno.EINVAL, raw.UnmapWithBitmap(Base, 4 * Page, bitmap), "not tracking");
        AssertErrno(Errno.None, raw.Dirty(Start), "start");
        AssertErrno(Errno.EINVAL, raw.GetBitmap(Base, 4 * Page, bitmap, 2 * Page), "another page size");
        AssertErrno(Errno.EINVAL, raw.GetBitmap(Base, 4 * Page, []), "no bitmap");
        AssertErrno(Errno.EINVAL, raw.GetBitmap(Base, 65 * Page, bitmap), "a bitmap too small");
        AssertErrno(Errno.EINVAL, raw.GetBitmap(Base, 0, bitmap), "size 0");
        AssertErrno(Errno.EINVAL, raw.GetBitmap(Base + 1, 4 * Page, bitmap), "iova unaligned");
        AssertErrno(Errno.EINVAL, raw.GetBitmap(Base, (4 * Page) + 1, bitmap), "size unaligned");
        AssertErrno(Errno.EINVAL, raw.GetBitmap(ulong.MaxValue - Page + 1, 2 * Page, bitmap), "wraps");
        AssertErrno(Errno.EINVAL, raw.GetBitmap(Base, 3 * Page, bitmap), "cuts a mapping at its end");
        AssertErrno(Errno.EINVAL, raw.GetBitmap(Base + Page, 3 * Page, bitmap), "cuts a mapping at its start");
        AssertErrno(Errno.EINVAL, raw.UnmapWithBitmap(Base, 3 * Page, bitmap), "cuts a mapping");
        AssertErrno(Errno.EINVAL, raw.UnmapWithBitmap(Base, 4 * Page, bitmap, 2 * Page), "another page size");
        var far = new vfio_bitmap { pgsize = Page, size = 8, data = 0xffff_8000_0000_0000 };
        AssertErrno(Errno.EINVAL, raw.GetBitmap(Base, 4 * Page, far), "a kernel address");
        AssertErrno(Errno.EINVAL, raw.GetBitmap(Base, 4 * Page, far, argsz: 47), "argsz too small");
        var missing = new vfio_bitmap { pgsize = Page, size = 8, data = 0x1000 };
        AssertErrno(Errno.EFAULT, raw.GetBitmap(Base, 4 * Page, missing), "nothing is mapped there");
        var huge = new vfio_bitmap { pgsize = Page, size = (1ul << 28) + 8, data = (ulong)memory.Address };
        AssertErrno(Errno.EINVAL, raw.GetBitmap(Base, 4 * Page, huge), "a bitmap too large");
    }

    [TestMethod]
    public void Ordinary_device_makes_every_mapped_page_dirty_each_time()
    {
        using RawVfio raw = Attached();
        using MappedMemory memory = Memory(16);
        ulong address = (ulong)memory.Address;
        AssertErrno(Errno.None, raw.Map(Base, address, 4 * Page), "MAP_DMA");
        AssertErrno(Errno.None, raw.Dirty(Start), "start");
        AssertErrno(Errno.None, raw.Map(Base + (8 * Page), address, 4 * Page), "MAP_DMA while tracking");
        ulong[] bitmap = new ulong[1];
        AssertErrno(Errno.None, raw.GetBitmap(Base, 12 * Page, bitmap), "GET_BITMAP");
        Assert.AreEqual(0xf0ful, bitmap[0]);
        // Again all of them, and more: the kernel does not clear what it shifted beyond a mapping's own bits. What comes back is
        // an upper bound even of what is mapped.
        bitmap[0] = 0;
        AssertErrno(Errno.None, raw.GetBitmap(Base, 12 * Page, bitmap), "GET_BITMAP");
        Assert.AreEqual(0xf_0f0ful, bitmap[0]);

        // A mapping at the first bit of a word stores the word; elsewhere in a word, it adds to what the user has there.
        bitmap[0] = ulong.MaxValue;
        AssertErrno(Errno.None, raw.GetBitmap(Base, 4 * Page, bitmap), "GET_BITMAP");
        Assert.AreEqual(0xful, bitmap[0]);
        bitmap[0] = 1ul << 63;
        AssertErrno(Errno.None, raw.GetBitmap(Base + (4 * Page), 8 * Page, bitmap), "GET_BITMAP");
        Assert.AreEqual((1ul << 63) | 0xf0, bitmap[0] & ((1ul << 63) | 0xff));
        bitmap[0] = ulong.MaxValue;
        AssertErrno(Errno.None, raw.GetBitmap(Base + (64 * Page), 8 * Page, bitmap), "GET_BITMAP where nothing is mapped");
        Assert.AreEqual(ulong.MaxValue, bitmap[0]);

        bitmap[0] = 0;
        AssertErrno(Errno.None, raw.UnmapWithBitmap(Base, 12 * Page, bitmap), "UNMAP_DMA with a bitmap");
        Assert.AreEqual(0xf0ful, bitmap[0] & 0xf0f);
        AssertErrno(Errno.None, raw.Unmap(Base, 12 * Page, out ulong unmapped), "UNMAP_DMA");
        Assert.AreEqual(0ul, unmapped);
    }
}
