using System.CommandLine;
using System.Globalization;
using Vfio.Service;

namespace Vfio.Cli.Verbs;

/// <summary><c>vfiopin device list|show|bind|unbind</c>: on this machine's sysfs, with the caller's own privilege.</summary>
internal static class DeviceVerbs
{
    public static Command Build(VerbBuilder verbs) => verbs.Noun(
        "device",
        "PCI devices: what there is, and who drives it",
        BuildList(verbs),
        BuildShow(verbs),
        BuildBind(verbs),
        BuildUnbind(verbs));

    private static Command BuildList(VerbBuilder verbs) => verbs.Verb(
        "list",
        "Lists the PCI devices with their drivers and IOMMU groups",
        ["vfiopin device list", "vfiopin device list -o json"],
        [],
        run =>
        {
            ShowDevices(run, new PciBus(run.Environment.Sysfs).List());
            return Vfiopin.Done;
        });

    private static Command BuildShow(VerbBuilder verbs)
    {
        Argument<PciAddress> address = AddressParser.One();
        return verbs.Verb(
            "show",
            "Shows a device with its whole IOMMU group, and whether user space can have it",
            ["vfiopin device show 0000:00:04.0"],
            [address],
            run =>
            {
                var bus = new PciBus(run.Environment.Sysfs);
                PciDevice device = bus.Get(run.Get(address));
                IommuGroup? group = device.IommuGroup is int number ? bus.GetGroup(number) : null;
                run.Show(DeviceDetail.Of(device, group), static json => json.DeviceDetail, (detail, view) =>
                {
                    view.List(
                    [
                        ("address", detail.Device.Address.ToString()),
                        ("id", detail.Device.Id),
                        ("class", detail.Device.Class),
                        ("virtio type", detail.Device.VirtioType ?? "-"),
                        ("driver", detail.Device.Driver ?? "-"),
                        ("NUMA node", Number(detail.Device.NumaNode)),
                        ("IOMMU group", Number(detail.Device.IommuGroup)),
                        ("group viable", detail.GroupViable ? "yes" : "no"),
                        ("group members", string.Join(", ", detail.GroupMembers.Select(m => $"{m.Address} ({m.Driver ?? "no driver"})"))),
                    ]);
                    if (detail.Cure is not null)
                    {
                        view.Line($"to use it: {detail.Cure}");
                    }
                });
                return Vfiopin.Done;
            });
    }

    private static Command BuildBind(VerbBuilder verbs)
    {
        Argument<PciAddress[]> addresses = AddressParser.Some();
        var force = new Option<bool>("--force") { Description = "Take a disk even when it is mounted" };
        return verbs.Verb(
            "bind",
            "Gives devices to vfio-pci, and remembers the drivers that they had; all of them or none",
            ["vfiopin device bind 0000:00:04.0", "vfiopin device bind 0000:01:00.0 0000:01:00.1"],
            [addresses, force],
            run =>
            {
                ShowDevices(run, Binding(run).Bind(run.Get(addresses), run.Get(force), run.Cancellation));
                return Vfiopin.Done;
            });
    }

    private static Command BuildUnbind(VerbBuilder verbs)
    {
        Argument<PciAddress[]> addresses = AddressParser.Some();
        return verbs.Verb(
            "unbind",
            "Takes devices from vfio-pci and gives them back to the drivers that they had",
            ["vfiopin device unbind 0000:00:04.0"],
            [addresses],
            run =>
            {
                ShowDevices(run, Binding(run).Unbind(run.Get(addresses), run.Cancellation));
                return Vfiopin.Done;
            });
    }

    private static PciDriverBinding Binding(Invocation run) =>
        new(new PciBus(run.Environment.Sysfs), run.Environment.StateDirectory);

    private static void ShowDevices(Invocation run, IReadOnlyList<PciDevice> devices) =>
        run.Show([.. devices.Select(DeviceInfo.Of)], static json => json.DeviceInfoArray, (rows, view) => view.Table(
            ["ADDRESS", "ID", "CLASS", "VIRTIO", "DRIVER", "GROUP", "NODE"],
            rows.Select(d => new[]
            {
                d.Address.ToString(), d.Id, d.Class, d.VirtioType ?? "-", d.Driver ?? "-", Number(d.IommuGroup), Number(d.NumaNode),
            })));

    private static string Number(int? value) => value?.ToString(CultureInfo.InvariantCulture) ?? "-";
}
