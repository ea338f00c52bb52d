using System.Globalization;
using Vfio.Linux;

namespace Vfio.Service;

/// <summary>What the kernel's container offers: type1 version 2, its extensions, and with a group attached its limits.</summary>
internal static class ContainerFindings
{
    public static IEnumerable<Finding> Of(IKernel kernel, PciBus bus, PciAddress? address)
    {
        var findings = new List<Finding>();
        try
        {
            using VfioContainer container = VfioContainer.Open(kernel, bus.Sysfs);
            findings.Add(new Finding("type1 version 2", FindingStatus.Ok, Extensions(container), null));
            Limits(container, bus, address, findings);
        }
        catch (LinuxException e)
        {
            findings.Add(new Finding("container", FindingStatus.Failure, $"{e.Call}: {e.Errno}: {e.Cause ?? e.Detail}", e.Cure ?? "look at the lines above"));
        }

        return findings;
    }

    private static string Extensions(VfioContainer container)
    {
        string[] missing = [.. Enum.GetValues<VfioExtension>().Where(e => e != VfioExtension.None && !container.Supports(e)).Select(e => e.ToString())];
        return missing.Length == 0 ? "offered, with every extension that is used" : $"offered, without {string.Join(", ", missing)}";
    }

    // Of the device that was named, else of the first group that nobody holds.
    private static void Limits(VfioContainer container, PciBus bus, PciAddress? address, List<Finding> findings)
    {
        PciDevice? device = bus.List().FirstOrDefault(d => (address is null || d.Address == address)
            && d.IsOnVfio && d.IommuGroup is int group && bus.GetGroup(group).IsViable && DeviceUsers.OfGroup(bus.Sysfs, group).Count == 0);
        if (device is null)
        {
            return;
        }

        container.AttachGroup(device.Address);
        Type1Iommu iommu = container.Iommu;
        findings.Add(new Finding(
            "IOVA ranges", FindingStatus.Ok, $"{string.Join(", ", iommu.ValidRanges)} (with {device.Address} attached)", null));
        findings.Add(new Finding("IOMMU page sizes", FindingStatus.Ok, PageSizes(iommu.PageSizes), null));
        // iommufd's compatibility container has no limit and tells no migration capability (drivers/iommu/iommufd/vfio_compat.c).
        if (iommu.AvailableEntries == uint.MaxValue && iommu.DirtyTracking is null)
        {
            findings.Add(new Finding(
                "iommufd",
                FindingStatus.Warning,
                "the container is iommufd's compatibility: dirty tracking, the unmap with dirty bitmap, UPDATE_VADDR and the count of entries are lost",
                "use a kernel without CONFIG_IOMMUFD_VFIO_CONTAINER, or load vfio_iommu_type1"));
            return;
        }

        findings.Add(iommu.AvailableEntries is uint left
            ? new Finding("entries", FindingStatus.Ok, string.Create(CultureInfo.InvariantCulture, $"{left} left in a new container"), null)
            : new Finding("entries", FindingStatus.Warning, "the kernel does not tell how many are left", "use a kernel from 5.10 on"));
        findings.Add(iommu.DirtyTracking is { } dirty
            ? new Finding("dirty tracking", FindingStatus.Ok, string.Create(CultureInfo.InvariantCulture, $"the kernel's, by pages of {dirty.PageSize} bytes; "
                + $"for ordinary devices it calls every mapped page dirty"), null)
            : new Finding("dirty tracking", FindingStatus.Warning, "the kernel has none", "use a kernel from 5.8 on; the pool's own record needs none"));
    }

    private static string PageSizes(ulong bits)
    {
        var sizes = new List<string>();
        for (int bit = 0; bit < 64; bit++)
        {
            if ((bits >> bit & 1) != 0)
            {
                sizes.Add(bit >= 30 ? $"{1ul << (bit - 30)} GiB" : bit >= 20 ? $"{1ul << (bit - 20)} MiB" : $"{1ul << (bit - 10)} KiB");
            }
        }

        return string.Join(", ", sizes);
    }
}
