using System.Runtime.InteropServices;
using System.Text;
using Vfio.Linux;

namespace Vfio.Testing;

/// <summary>VFIO by plain calls, for tests of the kernel itself: a container, a group and the structures as the caller fills them.</summary>
public sealed unsafe class RawVfio : IDisposable
{
    private readonly IKernel _kernel;
    private readonly List<int> _descriptors = [];

    public RawVfio(IKernel kernel, int group)
    {
        ArgumentNullException.ThrowIfNull(kernel);
        _kernel = kernel;
        Container = Open("/dev/vfio/vfio");
        GroupDescriptor = Open($"/dev/vfio/{group}");
    }

    public int Container { get; }

    public int GroupDescriptor { get; }

    /// <summary>A container with the group and a version 2 IOMMU in it.</summary>
    public static RawVfio Attached(IKernel kernel, int group, int type = vfio.VFIO_TYPE1v2_IOMMU)
    {
        var raw = new RawVfio(kernel, group);
        Assert.AreEqual(Errno.None, raw.SetContainer(raw.Container));
        Assert.AreEqual(Errno.None, raw.SetIommu(type));
        return raw;
    }

    public int Open(string path)
    {
        int descriptor = _kernel.Open(path, Fcntl.O_RDWR);
        Assert.IsGreaterThanOrEqualTo(0, descriptor, $"open({path}): {(Errno)(-descriptor)}");
        _descriptors.Add(descriptor);
        return descriptor;
    }

    public void Close(int descriptor)
    {
        Assert.IsTrue(_descriptors.Remove(descriptor));
        Assert.AreEqual(0, _kernel.Close(descriptor));
    }

    public int Ioctl(int descriptor, uint request, void* argument) => _kernel.Ioctl(descriptor, request, argument);

    public int Ioctl(uint request, void* argument) => _kernel.Ioctl(Container, request, argument);

    public int CheckExtension(long extension) => Ioctl(vfio.VFIO_CHECK_EXTENSION, (void*)extension);

    public Errno SetIommu(long type) => ErrnoOf(Ioctl(vfio.VFIO_SET_IOMMU, (void*)type));

    public Errno SetContainer(int container) => ErrnoOf(Ioctl(GroupDescriptor, vfio.VFIO_GROUP_SET_CONTAINER, &container));

    public Errno UnsetContainer() => ErrnoOf(Ioctl(GroupDescriptor, vfio.VFIO_GROUP_UNSET_CONTAINER, null));

    public uint Status()
    {
        var status = new vfio_group_status { argsz = (uint)sizeof(vfio_group_status) };
        Assert.AreEqual(0, Ioctl(GroupDescriptor, vfio.VFIO_GROUP_GET_STATUS, &status));
        return status.flags;
    }

    /// <summary>VFIO_GROUP_GET_DEVICE_FD.</summary>
    /// <returns>The descriptor, closed with this object, or a negated errno.</returns>
    public int OpenDevice(string name)
    {
        // SAFETY: a string that ends in a zero byte, pinned for the call.
        fixed (byte* bytes = Encoding.ASCII.GetBytes(name + "\0"))
        {
            int descriptor = Ioctl(GroupDescriptor, vfio.VFIO_GROUP_GET_DEVICE_FD, bytes);
            if (descriptor >= 0)
            {
                _descriptors.Add(descriptor);
            }

            return descriptor;
        }
    }

    public Errno Map(ulong iova, MappedMemory memory, uint flags = vfio.VFIO_DMA_MAP_FLAG_READ | vfio.VFIO_DMA_MAP_FLAG_WRITE)
    {
        ArgumentNullException.ThrowIfNull(memory);
        return Map(iova, (ulong)memory.Address, memory.Length, flags);
    }

    public Errno Map(
        ulong iova, ulong address, ulong size,
        uint flags = vfio.VFIO_DMA_MAP_FLAG_READ | vfio.VFIO_DMA_MAP_FLAG_WRITE, uint argsz = 32)
    {
        var map = new vfio_iommu_type1_dma_map { argsz = argsz, flags = flags, vaddr = address, iova = iova, size = size };
        return ErrnoOf(Ioctl(vfio.VFIO_IOMMU_MAP_DMA, &map));
    }

    public Errno Unmap(ulong iova, ulong size, uint flags = 0, uint argsz = 24) => Unmap(iova, size, out _, flags, argsz);

    /// <summary>VFIO_IOMMU_UNMAP_DMA.</summary>
    /// <param name="iova">The first byte.</param>
    /// <param name="size">Bytes.</param>
    /// <param name="unmapped">What the kernel left in the size field.</param>
    /// <param name="flags">VFIO_DMA_UNMAP_FLAG_ bits.</param>
    /// <param name="argsz">The size that the caller claims.</param>
    public Errno Unmap(ulong iova, ulong size, out ulong unmapped, uint flags = 0, uint argsz = 24)
    {
        // The bitmap that may follow must be there to be read.
        byte* buffer = stackalloc byte[sizeof(vfio_iommu_type1_dma_unmap) + sizeof(vfio_bitmap)];
        var unmap = (vfio_iommu_type1_dma_unmap*)buffer;
        *unmap = new vfio_iommu_type1_dma_unmap { argsz = argsz, flags = flags, iova = iova, size = size };
        *(vfio_bitmap*)(buffer + sizeof(vfio_iommu_type1_dma_unmap)) = new vfio_bitmap { pgsize = UserMemory.PageSize };
        Errno errno = ErrnoOf(Ioctl(vfio.VFIO_IOMMU_UNMAP_DMA, unmap));
        unmapped = unmap->size;
        return errno;
    }

    /// <summary>VFIO_IOMMU_UNMAP_DMA with VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP.</summary>
    public Errno UnmapWithBitmap(ulong iova, ulong size, Span<ulong> bitmap, ulong pageSize = UserMemory.PageSize)
    {
        // SAFETY: the bitmap is pinned for the call and its length told.
        fixed (ulong* bits = bitmap)
        {
            byte* buffer = stackalloc byte[sizeof(vfio_iommu_type1_dma_unmap) + sizeof(vfio_bitmap)];
            *(vfio_iommu_type1_dma_unmap*)buffer = new vfio_iommu_type1_dma_unmap
            {
                argsz = (uint)(sizeof(vfio_iommu_type1_dma_unmap) + sizeof(vfio_bitmap)),
                flags = vfio.VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP,
                iova = iova,
                size = size,
            };
            *(vfio_bitmap*)(buffer + sizeof(vfio_iommu_type1_dma_unmap)) =
                new vfio_bitmap { pgsize = pageSize, size = (ulong)bitmap.Length * 8, data = (ulong)bits };
            return ErrnoOf(Ioctl(vfio.VFIO_IOMMU_UNMAP_DMA, buffer));
        }
    }

    /// <summary>VFIO_IOMMU_DIRTY_PAGES without a bitmap.</summary>
    public Errno Dirty(uint flags, uint argsz = 8)
    {
        var dirty = new vfio_iommu_type1_dirty_bitmap { argsz = argsz, flags = flags };
        return ErrnoOf(Ioctl(vfio.VFIO_IOMMU_DIRTY_PAGES, &dirty));
    }

    /// <summary>VFIO_IOMMU_DIRTY_PAGES with VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP.</summary>
    public Errno GetBitmap(ulong iova, ulong size, Span<ulong> bitmap, ulong pageSize = UserMemory.PageSize)
    {
        // SAFETY: the bitmap is pinned for the call and its length told.
        fixed (ulong* bits = bitmap)
        {
            return GetBitmap(iova, size, new vfio_bitmap { pgsize = pageSize, size = (ulong)bitmap.Length * 8, data = (ulong)bits });
        }
    }

    /// <summary>The answer to VFIO_IOMMU_GET_INFO, read as its layout says and not by the product's parser.</summary>
    public RawType1Info GetInfo()
    {
        byte[] buffer = new byte[4096];
        MemoryMarshal.Write(buffer, new vfio_iommu_type1_info { argsz = (uint)buffer.Length });
        // SAFETY: the array is pinned for the call and as long as argsz says.
        fixed (byte* pointer = buffer)
        {
            Assert.AreEqual(0, Ioctl(vfio.VFIO_IOMMU_GET_INFO, pointer));
        }

        return new RawType1Info(buffer);
    }

    public void Dispose()
    {
        for (int i = _descriptors.Count - 1; i >= 0; i--)
        {
            _ = _kernel.Close(_descriptors[i]);
        }

        _descriptors.Clear();
    }

    internal Errno GetBitmap(ulong iova, ulong size, vfio_bitmap bitmap, uint argsz = 48)
    {
        byte* buffer = stackalloc byte[sizeof(vfio_iommu_type1_dirty_bitmap) + sizeof(vfio_iommu_type1_dirty_bitmap_get)];
        *(vfio_iommu_type1_dirty_bitmap*)buffer = new vfio_iommu_type1_dirty_bitmap
        {
            argsz = argsz,
            flags = vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP,
        };
        *(vfio_iommu_type1_dirty_bitmap_get*)(buffer + sizeof(vfio_iommu_type1_dirty_bitmap)) =
            new vfio_iommu_type1_dirty_bitmap_get { iova = iova, size = size, bitmap = bitmap };
        return ErrnoOf(Ioctl(vfio.VFIO_IOMMU_DIRTY_PAGES, buffer));
    }

    private static Errno ErrnoOf(int result) => result < 0 ? (Errno)(-result) : Errno.None;
}
