using Vfio.Linux;
using Vfio.Testing;

namespace Vfio.Tests;

[TestClass]
public sealed class PciBusTests : IDisposable
{
    private readonly PciSysfsTree _tree = new();

    private PciBus Bus => new(_tree.Sysfs);

    public void Dispose() => _tree.Dispose();

    [TestMethod]
    public void Devices_come_in_bus_order_with_what_sysfs_tells()
    {
        _tree.AddDevice("0000:01:00.0", 7, "nvme", 0x144d, 0xa808, 0x010802);
        _tree.AddDevice("0000:00:04.0", 3, "virtio-pci");
        _tree.AddDevice("0000:00:03.0", 2, null, 0x1af4, 0x1000, 0x020000);

        IReadOnlyList<PciDevice> devices = Bus.List();

        Assert.AreEqual("0000:00:03.0 0000:00:04.0 0000:01:00.0", string.Join(' ', devices.Select(d => d.Address)));
        // The transitional device's type is its subsystem device number, which the tree sets to 0x1100: no known type.
        Assert.AreEqual(VirtioDeviceType.None, devices[0].VirtioType);
        Assert.AreEqual(VirtioDeviceType.Block, devices[1].VirtioType);
        Assert.AreEqual("1af4:1042", devices[1].Id);
        Assert.AreEqual("virtio-pci", devices[1].Driver);
        Assert.AreEqual(3, devices[1].IommuGroup);
        Assert.IsNull(devices[1].NumaNode);
        Assert.AreEqual(VirtioDeviceType.None, devices[2].VirtioType);
        Assert.AreEqual("NVMe storage", devices[2].ClassName);
    }

    [TestMethod]
    public void A_transitional_device_tells_its_type_in_the_subsystem()
    {
        PciAddress card = _tree.AddDevice("0000:00:03.0", 2, null, 0x1af4, 0x1000, 0x020000);
        _tree.WriteFile("sys/bus/pci/devices/0000:00:03.0/subsystem_device", "0x0001\n");
        Assert.AreEqual(VirtioDeviceType.Net, Bus.Get(card).VirtioType);
    }

    [TestMethod]
    public void A_group_with_a_driver_of_the_host_is_not_viable_and_the_cure_binds_what_blocks()
    {
        _tree.AddDevice("0000:00:01.0", 1, "pcieport", 0x8086, 0x3420, 0x060400);
        PciAddress disk = _tree.AddDevice("0000:01:00.0", 1, "vfio-pci");
        _tree.AddDevice("0000:01:00.1", 1, "e1000e", 0x8086, 0x10d3, 0x020000);
        _tree.AddDevice("0000:01:00.2", 1, "snd_hda_intel", 0x8086, 0x1, 0x040300);
        _tree.AddDevice("0000:01:00.3", 1, null, 0x8086, 0x2, 0x088000);

        IommuGroup group = Bus.GetGroup(Bus.Get(disk));

        Assert.IsFalse(group.IsViable);
        LinuxException e = group.NotViable();
        Assert.AreEqual("vfiopin device bind 0000:01:00.1 0000:01:00.2", e.Cure);
        StringAssert.Contains(
            e.Message,
            "0000:00:01.0 (pcieport), 0000:01:00.0 (vfio-pci), 0000:01:00.1 (e1000e), 0000:01:00.2 (snd_hda_intel), 0000:01:00.3 (no driver)",
            StringComparison.Ordinal);
    }

    [TestMethod]
    [DataRow("mlx5_vfio_pci")]
    [DataRow("vfio-pci")]
    [DataRow("pci-stub")]
    [DataRow(null)]
    public void These_drivers_keep_a_group_viable(string? driver)
    {
        PciAddress device = _tree.AddDevice("0000:01:00.0", 1, driver);
        Assert.IsTrue(Bus.GetGroup(Bus.Get(device)).IsViable);
    }

    [TestMethod]
    public void No_groups_means_no_iommu()
    {
        Assert.IsFalse(Bus.HasIommu);
        _tree.AddDevice("0000:01:00.0", 1, null);
        Assert.IsTrue(Bus.HasIommu);
    }
}
