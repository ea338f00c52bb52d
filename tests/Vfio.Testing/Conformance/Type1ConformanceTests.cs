using Vfio.Linux;

namespace Vfio.Testing;

/// <summary>What a kernel with VFIO answers, call by call. The same tests run on the simulated kernel and, in the nested VM, on
/// the real one: where the two differ, the simulation is wrong.</summary>
/// <remarks>Each row is of the tables in <c>drivers/vfio/vfio_iommu_type1.c</c>, <c>group.c</c> and <c>container.c</c>.</remarks>
public abstract unsafe partial class Type1ConformanceTests
{
    protected const ulong Page = 4096;

    // Far from what other tests map, inside every IOMMU's aperture.
    protected const ulong Base = 0x1000_0000;

    private const uint ReadWrite = vfio.VFIO_DMA_MAP_FLAG_READ | vfio.VFIO_DMA_MAP_FLAG_WRITE;

    /// <summary>The kernel to ask.</summary>
    protected abstract IKernel Kernel { get; }

    /// <summary>A group whose only device is <see cref="Device"/>, bound to vfio-pci.</summary>
    protected abstract int Group { get; }

    protected abstract PciAddress Device { get; }

    protected abstract KernelBehaviour Behaviour { get; }

    /// <summary>Sets the module parameter dma_entry_limit for containers to come.</summary>
    protected abstract void SetEntryLimit(uint limit);

    private Errno WhenWrapping => Behaviour.ReportsOverflow ? Errno.EOVERFLOW : Errno.EINVAL;

    private RawVfio Attached(int type = vfio.VFIO_TYPE1v2_IOMMU) => RawVfio.Attached(Kernel, Group, type);

    private static MappedMemory Memory(int pages)
    {
        MappedMemory memory = MappedMemory.Anonymous((ulong)pages * Page);
        // Written once, so that read-only mappings do not find the shared page of zeros.
        new Span<byte>((void*)memory.Address, (int)memory.Length).Fill(1);
        return memory;
    }

    private void AssertErrno(Errno expected, Errno actual, string what) =>
        Assert.AreEqual(expected, actual, $"{what} on {Behaviour}");
}
