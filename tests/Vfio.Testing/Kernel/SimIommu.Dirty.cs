using System.Numerics;
using System.Runtime.InteropServices;
using Vfio.Linux;

namespace Vfio.Testing;

/// <content>VFIO_IOMMU_DIRTY_PAGES: vfio_iommu_type1_dirty_pages.</content>
/// <remarks>Every group here is of an ordinary device, so every mapped page is dirty at every time (update_user_bitmap:
/// num_non_pinned_groups). Bits beyond a mapping's own can come back too, see <see cref="CopyBits"/>.</remarks>
internal sealed unsafe partial class SimIommu
{
    private bool _isTracking;

    private long DirtyPages(void* argument)
    {
        const uint Known = vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_START | vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP
            | vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP;
        if (kernel.Behaviour.IsIommufd)
        {
            return -(long)Errno.ENOTTY;
        }

        if (!isVersion2)
        {
            return -(long)Errno.EACCES;
        }

        if (!UserMemory.TryRead(argument, out vfio_iommu_type1_dirty_bitmap dirty))
        {
            return -(long)Errno.EFAULT;
        }

        if (dirty.argsz < sizeof(vfio_iommu_type1_dirty_bitmap) || (dirty.flags & ~Known) != 0
            || BitOperations.PopCount(dirty.flags) != 1)
        {
            return -(long)Errno.EINVAL;
        }

        if (dirty.flags == vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP)
        {
            return GetBitmap(dirty, (byte*)argument + sizeof(vfio_iommu_type1_dirty_bitmap));
        }

        // Starting twice and stopping what does not run are no errors.
        bool isTracking = dirty.flags == vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_START;
        if (isTracking != _isTracking)
        {
            _isTracking = isTracking;
            _mappings.ForEach(m => m.Bitmap = NewBitmap(m.Range));
        }

        return 0;
    }

    private long GetBitmap(vfio_iommu_type1_dirty_bitmap dirty, void* argument)
    {
        if (dirty.argsz < sizeof(vfio_iommu_type1_dirty_bitmap) + sizeof(vfio_iommu_type1_dirty_bitmap_get))
        {
            return -(long)Errno.EINVAL;
        }

        if (!UserMemory.TryRead(argument, out vfio_iommu_type1_dirty_bitmap_get get))
        {
            return -(long)Errno.EFAULT;
        }

        ulong misaligned = SmallestPageSize - 1;
        if (unchecked(get.iova + get.size) < get.iova
            || !IsAcceptable(get.bitmap, get.size)
            || get.bitmap.pgsize != SmallestPageSize
            || ((get.iova | get.size) & misaligned) != 0
            || !_isTracking
            || Bisects(get.iova, get.iova + get.size - 1))
        {
            return -(long)Errno.EINVAL;
        }

        for (int i = FirstFrom(get.iova); i < _mappings.Count && _mappings[i].Range.First.Value < get.iova + get.size; i++)
        {
            if (!CopyBits(_mappings[i], get.bitmap.data, get.iova))
            {
                return -(long)Errno.EFAULT;
            }
        }

        return 0;
    }

    // access_ok and verify_bitmap_size. A page size of 0 has no defined answer (__ffs(0)), so it must not be sent.
    private static bool IsAcceptable(vfio_bitmap bitmap, ulong length)
    {
        if (bitmap.pgsize == 0)
        {
            throw new InvalidOperationException("struct vfio_bitmap with pgsize 0: the kernel's answer is undefined");
        }

        ulong pages = length >> BitOperations.TrailingZeroCount(bitmap.pgsize);
        return UserMemory.IsUserRange(bitmap.data, bitmap.size)
            && pages != 0 && bitmap.size != 0 && bitmap.size <= LargestBitmap && bitmap.size >= BitmapBytes(pages);
    }

    // DIRTY_BITMAP_BYTES: whole 64-bit words.
    private static ulong BitmapBytes(ulong pages) => (pages + 63) / 64 * 8;

    // One word more than the pages need, for shifting (vfio_dma_bitmap_alloc).
    private ulong[]? NewBitmap(IovaRange range) =>
        _isTracking ? new ulong[(BitmapBytes(range.Length / SmallestPageSize) / 8) + 1] : null;

    // update_user_bitmap, word by word: the mapping's bitmap is shifted where it is to where its bits belong in the user's first
    // word, the whole of that word is added, and whole words are stored. Afterwards only as many bits as the mapping has pages
    // are cleared, so what was shifted beyond them comes back, shifted further, the next time.
    private bool CopyBits(SimMapping mapping, ulong bitmap, ulong baseIova)
    {
        ulong[] words = mapping.Bitmap ?? throw new InvalidOperationException("a tracked mapping without a bitmap");
        ulong pages = mapping.Range.Length / SmallestPageSize;
        ulong first = (mapping.Range.First.Value - baseIova) / SmallestPageSize;
        ulong address = bitmap + (first / 64 * 8);
        int shift = (int)(first % 64);
        int length = (int)(BitmapBytes(pages + (ulong)shift) / 8);
        for (ulong page = 0; page < pages; page++)
        {
            words[page / 64] |= 1ul << (int)(page % 64);
        }

        if (shift != 0)
        {
            for (int i = length - 1; i >= 0; i--)
            {
                words[i] = (words[i] << shift) | (i > 0 ? words[i - 1] >> (64 - shift) : 0);
            }

            Span<byte> leftover = stackalloc byte[8];
            if (!UserMemory.TryRead(address, leftover))
            {
                return false;
            }

            words[0] |= MemoryMarshal.Read<ulong>(leftover);
        }

        if (!UserMemory.TryWrite(address, MemoryMarshal.AsBytes(words.AsSpan(0, length))))
        {
            return false;
        }

        for (ulong page = 0; page < pages; page++)
        {
            words[page / 64] &= ~(1ul << (int)(page % 64));
        }

        return true;
    }
}
