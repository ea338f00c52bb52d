using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Vfio.Linux;

namespace Vfio;

/// <summary>The type1 version 2 IOMMU of a container: map, unmap, dirty bitmap, limits. Packs ioctls and names errors; what to map,
/// and what is mapped, is for the caller to know.</summary>
/// <remarks>Source: <c>drivers/vfio/vfio_iommu_type1.c</c>. The kernel serialises these calls with one lock per container, so any
/// thread may make them. A map is atomic: it maps all of its range or changes nothing.</remarks>
public sealed unsafe class Type1Iommu
{
    private readonly IKernel _kernel;
    private readonly FileDescriptor _container;
    private Type1Info _info = Type1Info.None;
    private bool _isTracking;

    internal Type1Iommu(IKernel kernel, FileDescriptor container)
    {
        _kernel = kernel;
        _container = container;
        Refresh();
    }

    /// <summary>The ranges that a mapping must lie in, ascending. They change when a group is attached.</summary>
    public IReadOnlyList<IovaRange> ValidRanges => _info.ValidRanges;

    /// <summary>The IOMMU's page sizes, a bit each (bit 12 is 4 KiB).</summary>
    public ulong PageSizes => _info.PageSizes;

    /// <summary>Bytes of the smallest page: what addresses and sizes must be multiples of.</summary>
    public ulong SmallestPageSize => _info.PageSizes & (~_info.PageSizes + 1);

    /// <summary>Entries left of the container's limit when <see cref="Refresh"/> last asked, or null where the kernel does not tell
    /// (before 5.10).</summary>
    public uint? AvailableEntries => _info.AvailableEntries;

    /// <summary>What the kernel's dirty tracking can do, or null where it has none (before 5.8, or iommufd's compatibility).</summary>
    public DirtyCapability? DirtyTracking => _info.DirtyTracking;

    /// <summary>Whether the kernel's dirty tracking was started here, and not stopped.</summary>
    // ORDER: nothing is published by it: one who unmaps while tracking starts or stops may meet either.
    public bool IsTrackingDirty => Volatile.Read(ref _isTracking);

    /// <summary>Throws if the container is closed, as every call does then.</summary>
    /// <exception cref="ObjectDisposedException">It is.</exception>
    internal void DemandOpen() => _ = _container.Number;

    /// <summary>Asks the kernel again, with a buffer that grows until the answer fits.</summary>
    /// <exception cref="LinuxException">VFIO_IOMMU_GET_INFO failed.</exception>
    public void Refresh()
    {
        byte[] buffer = new byte[sizeof(vfio_iommu_type1_info)];
        while (true)
        {
            // SAFETY: the kernel writes at most argsz bytes, and argsz is the buffer's length.
            fixed (byte* pointer = buffer)
            {
                var info = (vfio_iommu_type1_info*)pointer;
                info->argsz = (uint)buffer.Length;
                int result = _kernel.Ioctl(_container.Number, vfio.VFIO_IOMMU_GET_INFO, info);
                if (result < 0)
                {
                    throw VfioFailures.Exception("VFIO_IOMMU_GET_INFO", (Errno)(-result), string.Empty);
                }

                if (info->argsz <= buffer.Length)
                {
                    _info = Type1Info.Parse(buffer);
                    return;
                }

                // The list may grow between two calls, so the new size is only a start.
                buffer = new byte[checked((int)info->argsz)];
            }
        }
    }

    /// <summary>Maps and pins a range with one call; nothing changes when it fails.</summary>
    /// <param name="range">The IOVAs, aligned to <see cref="SmallestPageSize"/>.</param>
    /// <param name="address">The host address of its first byte, aligned likewise.</param>
    /// <param name="access">What the device may do.</param>
    /// <returns><see cref="Errno.None"/>, or why not.</returns>
    /// <remarks>Does not allocate. The pages stay where they are until the range is unmapped; until then only volatile accesses and
    /// system calls may touch what the device may write, and the memory must not be unmapped from this process.</remarks>
    public Errno TryMap(IovaRange range, HostAddress address, DmaAccess access) => TryMap(range.First, range.Length, address, access);

    /// <summary>As <see cref="TryMap(IovaRange, HostAddress, DmaAccess)"/>, by length.</summary>
    [SkipLocalsInit]
    internal Errno TryMap(Iova iova, ulong length, HostAddress address, DmaAccess access)
    {
        var map = new vfio_iommu_type1_dma_map
        {
            argsz = (uint)sizeof(vfio_iommu_type1_dma_map),
            flags = (uint)access,
            vaddr = address.Value,
            iova = iova.Value,
            size = length,
        };
        // SAFETY: a local of the size that argsz says.
        int result = _kernel.Ioctl(_container.Number, vfio.VFIO_IOMMU_MAP_DMA, &map);
        return result < 0 ? (Errno)(-result) : Errno.None;
    }

    /// <summary>Maps and pins a range with one call, as <see cref="TryMap(IovaRange, HostAddress, DmaAccess)"/>.</summary>
    /// <param name="range">The IOVAs.</param>
    /// <param name="address">The host address of its first byte.</param>
    /// <param name="access">What the device may do.</param>
    /// <exception cref="LinuxException">VFIO_IOMMU_MAP_DMA failed.</exception>
    public void Map(IovaRange range, HostAddress address, DmaAccess access)
    {
        Errno errno = TryMap(range, address, access);
        if (errno != Errno.None)
        {
            throw VfioFailures.Exception("VFIO_IOMMU_MAP_DMA", errno, Describe(range, address, access));
        }
    }

    /// <summary>Unmaps and unpins what was mapped in a range, which must not cut a mapping in two.</summary>
    /// <param name="range">The IOVAs.</param>
    /// <exception cref="LinuxException">VFIO_IOMMU_UNMAP_DMA failed, or less was unmapped than asked for: then something else
    /// unmapped part of it, and its memory must be taken as still in the device's reach.</exception>
    public void Unmap(IovaRange range)
    {
        var unmap = new vfio_iommu_type1_dma_unmap
        {
            argsz = (uint)sizeof(vfio_iommu_type1_dma_unmap),
            iova = range.First.Value,
            size = range.Length,
        };
        // SAFETY: a local of the size that argsz says.
        CheckUnmapped(_kernel.Ioctl(_container.Number, vfio.VFIO_IOMMU_UNMAP_DMA, &unmap), unmap.size, range);
    }

    /// <summary>Unmaps a range and gets its dirty bits in the same step, so that no write is lost between the two.</summary>
    /// <param name="range">The IOVAs, whole mappings.</param>
    /// <param name="bitmap">A bit per page of <see cref="DirtyCapability.PageSize"/>; what it held is gone.</param>
    /// <exception cref="LinuxException">VFIO_IOMMU_UNMAP_DMA failed, or less was unmapped than asked for.</exception>
    public void UnmapWithDirtyBitmap(IovaRange range, Span<ulong> bitmap)
    {
        ulong pageSize = CheckBitmap(range, bitmap);
        // SAFETY: the bitmap is pinned for the call, and its length in bytes is told.
        fixed (ulong* bits = bitmap)
        {
            var request = new UnmapWithBitmap
            {
                Unmap = new vfio_iommu_type1_dma_unmap
                {
                    argsz = (uint)sizeof(UnmapWithBitmap),
                    flags = vfio.VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP,
                    iova = range.First.Value,
                    size = range.Length,
                },
                Bitmap = new vfio_bitmap { pgsize = pageSize, size = (ulong)bitmap.Length * 8, data = (ulong)bits },
            };
            int result = _kernel.Ioctl(_container.Number, vfio.VFIO_IOMMU_UNMAP_DMA, &request);
            CheckUnmapped(result, request.Unmap.size, range);
            ClearBeyond(bitmap, range.Length / pageSize);
        }
    }

    /// <summary>Starts the kernel's dirty tracking of every mapping, present and to come.</summary>
    /// <exception cref="LinuxException">VFIO_IOMMU_DIRTY_PAGES failed.</exception>
    public void StartDirtyTracking()
    {
        SetDirtyTracking(vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_START, "start");
        Volatile.Write(ref _isTracking, true);
    }

    /// <summary>Stops the kernel's dirty tracking; bits not yet collected are lost.</summary>
    /// <exception cref="LinuxException">VFIO_IOMMU_DIRTY_PAGES failed.</exception>
    public void StopDirtyTracking()
    {
        // Before the call: whoever unmaps after it and asks for the bits is refused, and knows by this that there are none.
        bool was = Interlocked.Exchange(ref _isTracking, false);
        try
        {
            SetDirtyTracking(vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP, "stop");
        }
        catch
        {
            Volatile.Write(ref _isTracking, was);
            throw;
        }
    }

    /// <summary>Collects the kernel's dirty bits of a range and clears them there.</summary>
    /// <param name="range">The IOVAs, whole mappings.</param>
    /// <param name="bitmap">A bit per page of <see cref="DirtyCapability.PageSize"/>; what it held is gone.</param>
    /// <remarks>For an ordinary vfio-pci device every mapped page comes back dirty each time
    /// (<c>update_user_bitmap</c>: non-pinned groups): an upper bound, never the exact answer.</remarks>
    /// <exception cref="LinuxException">VFIO_IOMMU_DIRTY_PAGES failed.</exception>
    public void GetDirtyBitmap(IovaRange range, Span<ulong> bitmap)
    {
        ulong pageSize = CheckBitmap(range, bitmap);
        // SAFETY: the bitmap is pinned for the call, and its length in bytes is told.
        fixed (ulong* bits = bitmap)
        {
            var request = new DirtyBitmapGet
            {
                Dirty = new vfio_iommu_type1_dirty_bitmap
                {
                    argsz = (uint)sizeof(DirtyBitmapGet),
                    flags = vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP,
                },
                Get = new vfio_iommu_type1_dirty_bitmap_get
                {
                    iova = range.First.Value,
                    size = range.Length,
                    bitmap = new vfio_bitmap { pgsize = pageSize, size = (ulong)bitmap.Length * 8, data = (ulong)bits },
                },
            };
            CheckDirty(_kernel.Ioctl(_container.Number, vfio.VFIO_IOMMU_DIRTY_PAGES, &request), $"get bitmap of iova {range}");
            ClearBeyond(bitmap, range.Length / pageSize);
        }
    }

    /// <summary>Names a mapping in an error message.</summary>
    internal static string Describe(IovaRange range, HostAddress address, DmaAccess access) =>
        $"iova {range} at {address} ({range.Length} bytes, device {access})";

    private static void CheckUnmapped(int result, ulong unmapped, IovaRange range)
    {
        if (result < 0)
        {
            throw VfioFailures.Exception("VFIO_IOMMU_UNMAP_DMA", (Errno)(-result), $"iova {range}");
        }

        if (unmapped != range.Length)
        {
            throw new LinuxException(
                "VFIO_IOMMU_UNMAP_DMA",
                Errno.EIO,
                $"iova {range}: {unmapped} of {range.Length} bytes were unmapped",
                "part of the range was not mapped",
                "free exactly what was mapped; the memory is kept, since the device may still reach it");
        }
    }

    private static void CheckDirty(int result, string detail)
    {
        if (result < 0)
        {
            throw VfioFailures.Exception("VFIO_IOMMU_DIRTY_PAGES", (Errno)(-result), detail);
        }
    }

    private ulong CheckBitmap(IovaRange range, Span<ulong> bitmap)
    {
        DirtyCapability capability = DirtyTracking
            ?? throw VfioFailures.Exception("VFIO_IOMMU_DIRTY_PAGES", Errno.ENOTTY, $"iova {range}");
        ulong words = ((range.Length / capability.PageSize) + 63) / 64;
        ArgumentOutOfRangeException.ThrowIfLessThan((ulong)bitmap.Length, words, nameof(bitmap));
        // The kernel overwrites some words and adds to others, as its mappings lie (update_user_bitmap).
        bitmap.Clear();
        return capability.PageSize;
    }

    // After a range of several mappings kernel 6.1 also sets bits behind the last page.
    private static void ClearBeyond(Span<ulong> bitmap, ulong pages)
    {
        int whole = (int)(pages / 64);
        if (pages % 64 != 0)
        {
            bitmap[whole++] &= (1ul << (int)(pages % 64)) - 1;
        }

        bitmap[whole..].Clear();
    }

    private void SetDirtyTracking(uint flag, string what)
    {
        var request = new vfio_iommu_type1_dirty_bitmap { argsz = (uint)sizeof(vfio_iommu_type1_dirty_bitmap), flags = flag };
        // SAFETY: a local of the size that argsz says.
        CheckDirty(_kernel.Ioctl(_container.Number, vfio.VFIO_IOMMU_DIRTY_PAGES, &request), what);
    }

    // The structures end in a flexible array in C; these are the two forms that we send.
    [StructLayout(LayoutKind.Sequential)]
    private struct UnmapWithBitmap
    {
        public vfio_iommu_type1_dma_unmap Unmap;
        public vfio_bitmap Bitmap;
    }

    [StructLayout(LayoutKind.Sequential)]
    private struct DirtyBitmapGet
    {
        public vfio_iommu_type1_dirty_bitmap Dirty;
        public vfio_iommu_type1_dirty_bitmap_get Get;
    }
}
