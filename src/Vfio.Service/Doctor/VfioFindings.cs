using System.Globalization;
using Vfio.Linux;

namespace Vfio.Service;

/// <summary>Modules, device files and their modes, the limit on entries.</summary>
internal static class VfioFindings
{
    private const uint UsualEntries = ushort.MaxValue;
    private const string NoIommuMode = "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode";

    public static IEnumerable<Finding> Of(PciBus bus)
    {
        Sysfs sysfs = bus.Sysfs;
        yield return sysfs.Exists($"/sys/bus/pci/drivers/{PciDevice.VfioPci}")
            ? new Finding("vfio-pci", FindingStatus.Ok, "the driver is loaded", null)
            : new Finding("vfio-pci", FindingStatus.Failure, "the driver is not loaded", "modprobe vfio-pci");
        yield return Container(sysfs);
        if (sysfs.TryRead(NoIommuMode) == "Y")
        {
            yield return new Finding(
                "no-IOMMU mode",
                FindingStatus.Warning,
                "allowed: a device without an IOMMU can be bound to vfio-pci and then reaches all memory; vfiopin uses none such",
                $"echo N > {NoIommuMode}");
        }

        foreach (string name in sysfs.List("/dev/vfio"))
        {
            if (name.All(char.IsAsciiDigit))
            {
                yield return Group(sysfs, name);
            }
        }

        if (EntryLimit(sysfs) is { } limit)
        {
            yield return limit;
        }
    }

    private static Finding Container(Sysfs sysfs)
    {
        const string File = "/dev/vfio/vfio";
        if (!sysfs.Exists(File))
        {
            return new Finding(File, FindingStatus.Failure, "is not there", "modprobe vfio-pci");
        }

        string mode = Mode(sysfs, File);
        return UnixIdentity.CanReadAndWrite(sysfs.Resolve(File))
            ? new Finding(File, FindingStatus.Ok, $"mode {mode}, usable by this user", null)
            : new Finding(File, FindingStatus.Failure, $"mode {mode}, not usable by this user", "chmod 0666 /dev/vfio/vfio (it gives no access to a device by itself)");
    }

    private static Finding Group(Sysfs sysfs, string number)
    {
        string file = $"/dev/vfio/{number}";
        string mode = Mode(sysfs, file);
        return UnixIdentity.CanReadAndWrite(sysfs.Resolve(file))
            ? new Finding(file, FindingStatus.Ok, $"mode {mode}, usable by this user", null)
            : new Finding(
                file, FindingStatus.Warning, $"mode {mode}, not usable by this user", $"chown $USER {file}, or run as root");
    }

    private static Finding? EntryLimit(Sysfs sysfs)
    {
        string? text = sysfs.TryRead("/sys/module/vfio_iommu_type1/parameters/dma_entry_limit");
        return !uint.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out uint limit) ? null
            : limit < UsualEntries
                ? new Finding(
                    "dma_entry_limit",
                    FindingStatus.Warning,
                    $"{limit} mappings a container, fewer than the usual {UsualEntries}",
                    $"echo {UsualEntries} > /sys/module/vfio_iommu_type1/parameters/dma_entry_limit, before containers are opened")
                : new Finding("dma_entry_limit", FindingStatus.Ok, $"{limit} mappings a container", null);
    }

    private static string Mode(Sysfs sysfs, string path) =>
        "0" + Convert.ToString((int)File.GetUnixFileMode(sysfs.Resolve(path)), 8).PadLeft(3, '0');
}
