using Vfio.Linux;

namespace Vfio;

/// <summary>The PCI functions and IOMMU groups of this machine, from sysfs. Asks afresh each time; changes nothing.</summary>
/// <remarks>Thread-safe.</remarks>
public sealed class PciBus
{
    private const string Devices = "/sys/bus/pci/devices";
    private const string Groups = "/sys/kernel/iommu_groups";

    /// <summary>Reads below <paramref name="sysfs"/>.</summary>
    /// <param name="sysfs">The tree; the machine's own by default.</param>
    public PciBus(Sysfs? sysfs = null) => Sysfs = sysfs ?? new Sysfs();

    /// <summary>The tree that is read.</summary>
    public Sysfs Sysfs { get; }

    /// <summary>Whether an IOMMU is on: the kernel makes groups only then, but for those of VFIO's no-IOMMU mode, which translate nothing.</summary>
    public bool HasIommu => Sysfs.List(Groups).Any(number => !IommuGroup.IsOfNoIommu(Sysfs, $"{Groups}/{number}"));

    /// <summary>Every function, in bus order.</summary>
    /// <returns>The functions; none on a machine without PCI.</returns>
    public IReadOnlyList<PciDevice> List()
    {
        var devices = new List<PciDevice>();
        foreach (string name in Sysfs.List(Devices))
        {
            // A function may go away between the listing and the reading.
            if (PciAddress.TryParse(name, null, out PciAddress address) && PciDevice.TryRead(Sysfs, address) is { } device)
            {
                devices.Add(device);
            }
        }

        devices.Sort((a, b) => a.Address.CompareTo(b.Address));
        return devices;
    }

    /// <summary>One function.</summary>
    /// <param name="address">Its address.</param>
    /// <returns>What sysfs tells of it.</returns>
    /// <exception cref="LinuxException">There is none at that address (ENODEV).</exception>
    public PciDevice Get(PciAddress address) =>
        PciDevice.TryRead(Sysfs, address)
        ?? throw new LinuxException(
            "device lookup",
            Errno.ENODEV,
            $"{address}",
            $"there is no PCI device at this address ({Sysfs.Resolve(PciDevice.Directory(address))} does not exist)",
            "list the devices with: vfiopin device list");

    /// <summary>The IOMMU group of a device with everything in it.</summary>
    /// <param name="device">The device.</param>
    /// <returns>The group.</returns>
    /// <exception cref="LinuxException">The device is in no group, so no IOMMU translates for it (ENODEV).</exception>
    public IommuGroup GetGroup(PciDevice device)
    {
        ArgumentNullException.ThrowIfNull(device);
        return device.IommuGroup is int number ? GetGroup(number) : throw NoIommu(device);
    }

    /// <summary>An IOMMU group with everything in it.</summary>
    /// <param name="number">The group's number.</param>
    /// <returns>The group; without members when there is no such group.</returns>
    public IommuGroup GetGroup(int number)
    {
        var members = new List<PciDevice>();
        foreach (string name in Sysfs.List($"{Groups}/{number}/devices"))
        {
            if (PciAddress.TryParse(name, null, out PciAddress address) && PciDevice.TryRead(Sysfs, address) is { } member)
            {
                members.Add(member);
            }
        }

        members.Sort((a, b) => a.Address.CompareTo(b.Address));
        return new IommuGroup(number, members);
    }

    private LinuxException NoIommu(PciDevice device) => HasIommu
        ? new LinuxException(
            "IOMMU group lookup",
            Errno.ENODEV,
            $"{device.Address}",
            "the machine has an IOMMU, but this device is in no IOMMU group, so nothing translates its DMA",
            "use a device behind the IOMMU (in a VM: a device with iommu_platform=on); see: vfiopin device list")
        : new LinuxException(
            "IOMMU group lookup",
            Errno.ENODEV,
            $"{device.Address}",
            $"no IOMMU is on in this machine ({Sysfs.Resolve(Groups)} is empty)",
            "switch on VT-d or AMD-Vi in the firmware and boot with intel_iommu=on (Intel); then look with: vfiopin doctor");
}
