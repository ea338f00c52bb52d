using System.Globalization;
using Vfio.Linux;

namespace Vfio;

/// <summary>What sysfs tells of one PCI function at the time it was asked.</summary>
/// <param name="Address">Where it is.</param>
/// <param name="VendorId">The vendor's number.</param>
/// <param name="DeviceId">The device's number, the vendor's own.</param>
/// <param name="ClassCode">Base class, subclass and programming interface, 24 bits.</param>
/// <param name="Driver">The driver that has it, or null.</param>
/// <param name="IommuGroup">The number of its IOMMU group, or null where no IOMMU translates for it.</param>
/// <param name="NumaNode">The memory node that it is next to, or null where the machine does not say.</param>
/// <param name="VirtioType">What kind of virtio device it is, <see cref="VirtioDeviceType.None"/> for others.</param>
public sealed record PciDevice(
    PciAddress Address,
    ushort VendorId,
    ushort DeviceId,
    int ClassCode,
    string? Driver,
    int? IommuGroup,
    int? NumaNode,
    VirtioDeviceType VirtioType)
{
    /// <summary>The driver that hands a device to user space.</summary>
    public const string VfioPci = "vfio-pci";

    private const ushort VirtioVendor = 0x1af4;

    /// <summary>Vendor and device as four hexadecimal digits each, <c>1af4:1042</c>.</summary>
    public string Id => string.Create(CultureInfo.InvariantCulture, $"{VendorId:x4}:{DeviceId:x4}");

    /// <summary>The class in words where it is a common one, else its number.</summary>
    public string ClassName => (ClassCode >> 8) switch
    {
        0x0100 => "SCSI storage",
        0x0101 => "IDE storage",
        0x0106 => "SATA storage",
        0x0108 => "NVMe storage",
        0x0180 => "storage",
        0x0200 => "Ethernet",
        0x0280 => "network",
        0x0300 => "VGA display",
        0x0302 => "3D accelerator",
        0x0500 => "RAM",
        0x0600 => "host bridge",
        0x0601 => "ISA bridge",
        0x0604 => "PCI bridge",
        0x0780 => "communication",
        0x0c03 => "USB",
        0x0c05 => "SMBus",
        0x1200 => "accelerator",
        _ => string.Create(CultureInfo.InvariantCulture, $"class {ClassCode >> 8:x4}"),
    };

    /// <summary>Whether it is a PCI-to-PCI or CardBus bridge (header type 1 or 2), which vfio-pci never takes.</summary>
    public bool IsBridge => (ClassCode >> 8) is 0x0604 or 0x0607 or 0x0609;

    /// <summary>Whether a VFIO driver has it: vfio-pci, or a vendor's variant of it.</summary>
    public bool IsOnVfio => Driver is not null
        && (Driver.EndsWith("vfio-pci", StringComparison.Ordinal) || Driver.EndsWith("vfio_pci", StringComparison.Ordinal));

    internal static string Directory(PciAddress address) => $"/sys/bus/pci/devices/{address}";

    internal static PciDevice? TryRead(Sysfs sysfs, PciAddress address)
    {
        string directory = Directory(address);
        if (Hex(sysfs, directory + "/vendor") is not int vendor || Hex(sysfs, directory + "/device") is not int device)
        {
            return null;
        }

        string? group = Vfio.IommuGroup.IsOfNoIommu(sysfs, directory + "/iommu_group") ? null : sysfs.TryReadLinkName(directory + "/iommu_group");
        int? node = Number(sysfs.TryRead(directory + "/numa_node"));
        return new PciDevice(
            address,
            (ushort)vendor,
            (ushort)device,
            Hex(sysfs, directory + "/class") ?? 0,
            sysfs.TryReadLinkName(directory + "/driver"),
            Number(group),
            // The kernel writes -1 (NUMA_NO_NODE) for "not known".
            node >= 0 ? node : null,
            TypeOf((ushort)vendor, (ushort)device, Hex(sysfs, directory + "/subsystem_device") ?? 0));
    }

    // virtio 1.3, 4.1.2.1 "Device Requirements: PCI Device Discovery": 0x1040 plus the type, or for a transitional device
    // 0x1000-0x103f with the type in the subsystem device number.
    private static VirtioDeviceType TypeOf(ushort vendor, ushort device, int subsystemDevice)
    {
        int type = vendor != VirtioVendor ? 0 : device switch
        {
            >= 0x1040 and <= 0x107f => device - 0x1040,
            >= 0x1000 and <= 0x103f => subsystemDevice,
            _ => 0,
        };
        return Enum.IsDefined((VirtioDeviceType)type) ? (VirtioDeviceType)type : VirtioDeviceType.None;
    }

    private static int? Hex(Sysfs sysfs, string path)
    {
        string? text = sysfs.TryRead(path);
        return text is not null && text.StartsWith("0x", StringComparison.Ordinal)
            && int.TryParse(text.AsSpan(2), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out int value)
            ? value : null;
    }

    private static int? Number(string? text) =>
        int.TryParse(text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out int value) ? value : null;
}
