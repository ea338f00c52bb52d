using System.Globalization;
using Vfio.Linux;

namespace Vfio.Service;

/// <summary>Kernel version, IOMMU, interrupt remapping.</summary>
internal static class MachineFindings
{
    // The version that brought each thing, from the kernel's log.
    private static readonly (int Major, int Minor, string What)[] Arrivals =
    [
        (5, 1, "a limit on mapping entries (CVE-2019-3882)"),
        (5, 4, "the list of valid IOVA ranges"),
        (5, 8, "dirty page tracking"),
        (5, 10, "the count of entries left"),
        (5, 12, "batched pinning (mapping is several times slower)"),
        (5, 14, "MADV_POPULATE_WRITE (memory is populated by touching it)"),
    ];

    // The firmware's tables: DMAR is Intel's VT-d, IVRS AMD-Vi, IORT and VIOT those of arm64 and of virtual machines.
    private static readonly string[] Tables = ["DMAR", "IVRS", "IORT", "VIOT"];

    public static IEnumerable<Finding> Of(PciBus bus)
    {
        yield return Kernel(bus.Sysfs);
        yield return Iommu(bus);
        if (bus.HasIommu)
        {
            yield return InterruptRemapping(bus.Sysfs);
        }
    }

    private static Finding Kernel(Sysfs sysfs)
    {
        string release = sysfs.TryRead("/proc/sys/kernel/osrelease") ?? "unknown";
        string[] parts = release.Split('.', '-', '+');
        if (parts.Length < 2
            || !int.TryParse(parts[0], NumberStyles.None, CultureInfo.InvariantCulture, out int major)
            || !int.TryParse(parts[1], NumberStyles.None, CultureInfo.InvariantCulture, out int minor))
        {
            return new Finding("kernel", FindingStatus.Warning, $"{release}: not a version that can be judged", "look whether it is 5.14 or later: uname -r");
        }

        string[] missing = [.. Arrivals.Where(a => (a.Major, a.Minor).CompareTo((major, minor)) > 0).Select(a => a.What)];
        return missing.Length == 0
            ? new Finding("kernel", FindingStatus.Ok, $"{release} has all that is used", null)
            : new Finding("kernel", FindingStatus.Warning, $"{release} lacks: {string.Join("; ", missing)}", "use a kernel from 5.14 on");
    }

    private static Finding Iommu(PciBus bus)
    {
        Sysfs sysfs = bus.Sysfs;
        if (bus.HasIommu)
        {
            IReadOnlyList<string> units = sysfs.List("/sys/class/iommu");
            int groups = sysfs.List("/sys/kernel/iommu_groups").Count;
            return new Finding("IOMMU", FindingStatus.Ok, $"on ({string.Join(' ', units)}), {groups} groups", null);
        }

        bool intel = sysfs.TryRead("/proc/cpuinfo")?.Contains("GenuineIntel", StringComparison.Ordinal) ?? false;
        string? table = Tables.FirstOrDefault(t => sysfs.Exists($"/sys/firmware/acpi/tables/{t}"));
        // Documentation/admin-guide/kernel-parameters.txt: AMD's is on unless it is switched off; Intel's depends on how the kernel was built.
        string argument = intel ? "intel_iommu=on" : "neither iommu=off nor amd_iommu=off";
        return table is null
            ? new Finding(
                "IOMMU",
                FindingStatus.Failure,
                "none: the firmware describes no IOMMU, and the kernel has no groups",
                $"switch {(intel ? "VT-d" : "AMD-Vi (or VT-d, or the SMMU)")} on in the firmware, or give the VM a virtual IOMMU "
                    + $"(QEMU: -device intel-iommu,intremap=on), and boot with {argument}")
            : new Finding(
                "IOMMU",
                FindingStatus.Failure,
                $"off: the firmware describes one ({table}), and the kernel does not use it",
                $"boot with {argument} on the kernel command line (in /etc/default/grub: GRUB_CMDLINE_LINUX, then update-grub)");
    }

    private static Finding InterruptRemapping(Sysfs sysfs)
    {
        const string Subject = "interrupt remapping";
        // arch/x86 names the chip of a remapped interrupt IR-PCI-MSI and IR-IO-APIC; arm64's ITS translates always.
        string interrupts = sysfs.TryRead("/proc/interrupts") ?? string.Empty;
        if (interrupts.Contains("IR-", StringComparison.Ordinal) || interrupts.Contains("ITS-", StringComparison.Ordinal))
        {
            return new Finding(Subject, FindingStatus.Ok, "on: a device can raise only its own interrupts", null);
        }

        const string Cure = "switch it on in the firmware (QEMU: -device intel-iommu,intremap=on with -machine kernel-irqchip=split)";
        return sysfs.TryRead("/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts") == "Y"
            ? new Finding(Subject, FindingStatus.Warning, "off, and allow_unsafe_interrupts is set: a device can forge interrupts", Cure)
            : new Finding(
                Subject,
                FindingStatus.Failure,
                "off: the kernel refuses devices (EPERM at VFIO_SET_IOMMU)",
                Cure + ", or accept that a device can forge interrupts: echo Y > /sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts");
    }
}
