namespace Vfio.Service;

/// <summary>A PCI device as <c>device list</c> tells it.</summary>
/// <param name="Address">Where it is.</param>
/// <param name="Id">Vendor and device, <c>1af4:1042</c>.</param>
/// <param name="Class">The class in words.</param>
/// <param name="VirtioType">The kind of virtio device, or null.</param>
/// <param name="Driver">The driver that has it, or null.</param>
/// <param name="IommuGroup">Its IOMMU group, or null.</param>
/// <param name="NumaNode">Its memory node, or null.</param>
public sealed record DeviceInfo(
    PciAddress Address, string Id, string Class, string? VirtioType, string? Driver, int? IommuGroup, int? NumaNode)
{
    /// <summary>Makes it of what sysfs tells.</summary>
    /// <param name="device">The device.</param>
    /// <returns>The same, for output.</returns>
    public static DeviceInfo Of(PciDevice device)
    {
        ArgumentNullException.ThrowIfNull(device);
        return new DeviceInfo(
            device.Address,
            device.Id,
            device.ClassName,
            device.VirtioType == VirtioDeviceType.None ? null : device.VirtioType.ToString(),
            device.Driver,
            device.IommuGroup,
            device.NumaNode);
    }
}

/// <summary>A PCI device with its group.</summary>
/// <param name="Device">The device.</param>
/// <param name="GroupMembers">Everything in its IOMMU group; empty where it has none.</param>
/// <param name="GroupViable">Whether user space can have the group.</param>
/// <param name="Cure">The command that makes the device usable, or null where it is.</param>
public sealed record DeviceDetail(DeviceInfo Device, IReadOnlyList<DeviceInfo> GroupMembers, bool GroupViable, string? Cure)
{
    /// <summary>Makes it of what sysfs tells.</summary>
    /// <param name="device">The device.</param>
    /// <param name="group">Its group, or null.</param>
    /// <returns>The same, for output.</returns>
    public static DeviceDetail Of(PciDevice device, IommuGroup? group)
    {
        ArgumentNullException.ThrowIfNull(device);
        string? cure = group switch
        {
            null => "vfiopin doctor",
            { IsViable: false } => group.BindCommand,
            _ when device.IsOnVfio || device.IsBridge => null,
            _ => $"vfiopin device bind {device.Address}",
        };
        return new DeviceDetail(
            DeviceInfo.Of(device), [.. (group?.Members ?? []).Select(DeviceInfo.Of)], group is { IsViable: true }, cure);
    }
}
