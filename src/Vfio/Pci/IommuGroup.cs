using Vfio.Linux;

namespace Vfio;

/// <summary>An IOMMU group: the functions that the IOMMU cannot tell apart, which therefore belong to one owner.</summary>
/// <param name="Number">Its number, as in <c>/dev/vfio/NUMBER</c>.</param>
/// <param name="Members">Its functions, in bus order.</param>
public sealed record IommuGroup(int Number, IReadOnlyList<PciDevice> Members)
{
    /// <summary>The members whose drivers keep the group from user space.</summary>
    /// <remarks>The kernel's rule (<c>vfio_dev_viable</c>, since 5.19 <c>driver_managed_dma</c>): a member may have no driver, a
    /// VFIO driver, pci-stub or pcieport; bridges do no DMA of their own.</remarks>
    public IEnumerable<PciDevice> Blockers => Members.Where(m => !Allows(m));

    /// <summary>Whether user space can have the group.</summary>
    public bool IsViable => !Blockers.Any();

    /// <summary>The shell command that takes every blocker to vfio-pci.</summary>
    public string BindCommand => $"vfiopin device bind {string.Join(' ', Blockers.Select(b => b.Address))}";

    /// <summary>Each member with its driver, such as <c>0000:00:04.0 (virtio-pci), 0000:00:05.0 (no driver)</c>.</summary>
    /// <returns>The list in one line.</returns>
    public string Describe() => string.Join(", ", Members.Select(m => $"{m.Address} ({m.Driver ?? "no driver"})"));

    /// <summary>Says why user space cannot have the group: every member with its driver, and the command that cures it.</summary>
    /// <returns>The exception, to throw.</returns>
    public LinuxException NotViable() => new(
        "VFIO_GROUP_GET_STATUS",
        Errno.EPERM,
        $"IOMMU group {Number} is not viable; it has {Describe()}",
        "the IOMMU cannot keep the members of a group apart, so none may stay with a driver of the host",
        IsViable ? "unbind the group's other devices from their drivers" : BindCommand);

    /// <summary>Whether VFIO made the group for a device that no IOMMU translates for (<c>vfio_noiommu_group_alloc</c>).</summary>
    internal static bool IsOfNoIommu(Sysfs sysfs, string directory) => sysfs.TryRead($"{directory}/name") == "vfio-noiommu";

    private static bool Allows(PciDevice member) =>
        member.Driver is null or "pci-stub" or "pcieport" || member.IsOnVfio || member.IsBridge;
}
