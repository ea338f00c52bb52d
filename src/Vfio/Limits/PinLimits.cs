using System.Globalization;
using Vfio.Linux;

namespace Vfio;

/// <summary>Everything that limits what can be pinned: a container's, or what a container would most likely have.</summary>
/// <param name="ValidRanges">The IOVAs that a mapping must lie in.</param>
/// <param name="PageSizes">The IOMMU's page sizes, a bit each.</param>
/// <param name="AvailableEntries">Mappings left, or null where the kernel does not tell.</param>
/// <param name="Memlock">What the process may pin.</param>
/// <param name="Assumed">True when no container was asked: ranges, page sizes and entries are then what is usual.</param>
public sealed record PinLimits(
    IReadOnlyList<IovaRange> ValidRanges, ulong PageSizes, uint? AvailableEntries, MemlockLimit Memlock, bool Assumed)
{
    // vfio_iommu_type1.c, dma_entry_limit
    private const uint UsualEntries = ushort.MaxValue;

    /// <summary>The limits of a container, as last told by the kernel.</summary>
    /// <param name="iommu">Its IOMMU.</param>
    /// <param name="sysfs">Where <c>/proc</c> is; the real one by default.</param>
    /// <returns>The limits.</returns>
    public static PinLimits Of(Type1Iommu iommu, Sysfs? sysfs = null)
    {
        ArgumentNullException.ThrowIfNull(iommu);
        return new PinLimits(iommu.ValidRanges, iommu.PageSizes, iommu.AvailableEntries, MemlockLimit.Read(sysfs), Assumed: false);
    }

    /// <summary>The limits that a container on this machine would most likely have, to plan with before a device is chosen: 39 bits of
    /// IOVA without the interrupt window, which the smallest apertures in the field have, and the module's entry limit.</summary>
    /// <param name="sysfs">Where <c>/sys</c> and <c>/proc</c> are; the real ones by default.</param>
    /// <returns>The limits.</returns>
    public static PinLimits Usual(Sysfs? sysfs = null)
    {
        sysfs ??= new Sysfs();
        string? parameter = sysfs.TryRead("/sys/module/vfio_iommu_type1/parameters/dma_entry_limit");
        uint entries = uint.TryParse(parameter, CultureInfo.InvariantCulture, out uint limit) ? limit : UsualEntries;
        return new PinLimits(
            [new IovaRange(new Iova(0), new Iova(0xfedf_ffff)), new IovaRange(new Iova(0xfef0_0000), new Iova((1ul << 39) - 1))],
            4 * ByteSize.KiB | 2 * ByteSize.MiB | ByteSize.GiB, entries, MemlockLimit.Read(sysfs), Assumed: true);
    }
}
