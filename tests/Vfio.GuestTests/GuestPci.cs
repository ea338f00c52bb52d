using Vfio.Linux;

namespace Vfio.GuestTests;

/// <summary>Hands devices of the nested VM to vfio-pci, with the plain sysfs steps that the product's own binding is checked against.</summary>
internal static class GuestPci
{
    private static readonly Sysfs Sys = new();

    public static string? DriverOf(PciAddress address) => Sys.TryReadLinkName($"/sys/bus/pci/devices/{address}/driver");

    public static void BindToVfio(PciAddress address)
    {
        string? driver = DriverOf(address);
        if (driver == "vfio-pci")
        {
            return;
        }

        Sys.Write($"/sys/bus/pci/devices/{address}/driver_override", "vfio-pci");
        if (driver is not null)
        {
            Sys.Write($"/sys/bus/pci/drivers/{driver}/unbind", address.ToString());
        }

        Sys.Write("/sys/bus/pci/drivers_probe", address.ToString());
        Assert.AreEqual("vfio-pci", DriverOf(address));
    }
}
