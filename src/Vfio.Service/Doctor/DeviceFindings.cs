using Vfio.Linux;

namespace Vfio.Service;

/// <summary>IOMMU groups: who is in them, which drivers they have, who holds them.</summary>
internal static class DeviceFindings
{
    public static IEnumerable<Finding> Of(PciBus bus, PciAddress address)
    {
        string subject = $"device {address}";
        PciDevice device;
        try
        {
            device = bus.Get(address);
        }
        catch (LinuxException e)
        {
            return [new Finding(subject, FindingStatus.Failure, "there is no such PCI device", e.Cure)];
        }

        var findings = new List<Finding>
        {
            new(subject, FindingStatus.Ok, $"{device.Id}, {device.ClassName}{(device.VirtioType == VirtioDeviceType.None ? string.Empty : $", virtio {device.VirtioType}")}", null),
        };
        if (device.IommuGroup is not int number)
        {
            findings.Add(new Finding(subject, FindingStatus.Failure, "it is in no IOMMU group: nothing translates its DMA",
                bus.HasIommu ? "use a device behind the IOMMU (in a VM: iommu_platform=on)" : "switch the IOMMU on, as above"));
            return findings;
        }

        findings.Add(device.IsOnVfio
            ? new Finding(subject, FindingStatus.Ok, $"is on {device.Driver}", null)
            : new Finding(subject, FindingStatus.Failure, device.Driver is null ? "has no driver" : $"is on {device.Driver}", $"vfiopin device bind {address}"));
        findings.AddRange(OfGroup(bus, bus.GetGroup(number)));
        return findings;
    }

    public static IEnumerable<Finding> OfAll(PciBus bus)
    {
        int[] groups = [.. bus.List().Where(d => d.IsOnVfio).Select(d => d.IommuGroup).OfType<int>().Distinct().Order()];
        return groups.Length == 0
            ? [new Finding("devices", FindingStatus.Warning, "none is on vfio-pci", "choose one of vfiopin device list, then: vfiopin device bind BDF")]
            : groups.SelectMany(g => OfGroup(bus, bus.GetGroup(g)));
    }

    private static IEnumerable<Finding> OfGroup(PciBus bus, IommuGroup group)
    {
        string subject = $"IOMMU group {group.Number}";
        yield return group.IsViable
            ? new Finding(subject, FindingStatus.Ok, $"viable: {group.Describe()}", null)
            : new Finding(subject, FindingStatus.Failure, $"not viable: {group.Describe()}", group.BindCommand);
        IReadOnlyList<string> users = DeviceUsers.OfGroup(bus.Sysfs, group.Number);
        if (users.Count > 0)
        {
            yield return new Finding(
                subject, FindingStatus.Warning, $"is held by {string.Join(", ", users)}", "end that process, or ask it (a vfiopin daemon serves the other verbs)");
        }
    }
}
