using Vfio.Linux;
using Vfio.Testing;

namespace Vfio.Tests;

[TestClass]
public sealed class PciDriverBindingTests : IDisposable
{
    private readonly PciSysfsTree _tree = new();
    private readonly string _state = Directory.CreateTempSubdirectory("vfiopin-state-").FullName;

    private PciDriverBinding Binding => new(new PciBus(_tree.Sysfs), _state, TimeSpan.FromSeconds(5));

    private PciDriverBinding ImpatientBinding => new(new PciBus(_tree.Sysfs), _state, TimeSpan.FromMilliseconds(200));

    public void Dispose()
    {
        _tree.Dispose();
        Directory.Delete(_state, recursive: true);
    }

    [TestMethod]
    public void Bind_and_unbind_give_the_device_to_vfio_pci_and_back()
    {
        _tree.AddDriver("vfio-pci");
        _tree.AddDriver("virtio-pci");
        PciAddress disk = _tree.AddDevice("0000:00:04.0", 3, "virtio-pci");

        Assert.AreEqual("vfio-pci", Binding.Bind([disk])[0].Driver);
        Assert.AreEqual("vfio-pci", _tree.OverrideOf(disk));

        // Another command, later: the former driver comes from the state file.
        Assert.AreEqual("virtio-pci", Binding.Unbind([disk])[0].Driver);
        Assert.AreEqual(string.Empty, _tree.OverrideOf(disk));
        Assert.IsNull(FormerDriver.TryLoad(_state, disk));
    }

    [TestMethod]
    public void Bind_of_a_bound_device_changes_nothing_and_keeps_the_record()
    {
        _tree.AddDriver("vfio-pci");
        _tree.AddDriver("virtio-pci");
        PciAddress disk = _tree.AddDevice("0000:00:04.0", 3, "virtio-pci");
        Binding.Bind([disk]);
        Binding.Bind([disk]);
        Assert.AreEqual("virtio-pci", FormerDriver.TryLoad(_state, disk)!.Driver);
    }

    [TestMethod]
    public void A_bind_that_was_killed_half_way_does_not_lose_the_former_driver()
    {
        _tree.AddDriver("vfio-pci");
        _tree.AddDriver("virtio-pci");
        PciAddress disk = _tree.AddDevice("0000:00:04.0", 3, "virtio-pci");
        Binding.Bind([disk]);
        // As after the unbind and before the probe: no driver, our override, the record there.
        _tree.Sysfs.Write("/sys/bus/pci/drivers/vfio-pci/unbind", disk.ToString());
        Assert.IsTrue(SpinWait.SpinUntil(() => _tree.DriverOf(disk) is null, TimeSpan.FromSeconds(20)));

        Assert.AreEqual("vfio-pci", Binding.Bind([disk])[0].Driver);
        Assert.AreEqual("virtio-pci", Binding.Unbind([disk])[0].Driver);
        Assert.AreEqual(string.Empty, _tree.OverrideOf(disk));
    }

    [TestMethod]
    public void Unbind_of_a_device_that_had_no_driver_leaves_it_without_one()
    {
        _tree.AddDriver("vfio-pci");
        PciAddress device = _tree.AddDevice("0000:00:05.0", 4, null);
        Binding.Bind([device]);
        Assert.IsNull(Binding.Unbind([device])[0].Driver);
    }

    [TestMethod]
    public void A_probe_that_does_not_take_is_undone_and_names_the_group()
    {
        _tree.AddDriver("vfio-pci");
        _tree.AddDriver("virtio-pci");
        _tree.MakeRefuse("vfio-pci");
        PciAddress disk = _tree.AddDevice("0000:00:04.0", 3, "virtio-pci");
        _tree.AddDevice("0000:00:04.1", 3, null);

        LinuxException e = Assert.ThrowsExactly<LinuxException>(() => ImpatientBinding.Bind([disk]));

        Assert.AreEqual(Errno.ETIMEDOUT, e.Errno);
        StringAssert.Contains(e.Message, "IOMMU group 3 has 0000:00:04.0 (virtio-pci), 0000:00:04.1 (no driver)", StringComparison.Ordinal);
        Assert.AreEqual("virtio-pci", _tree.DriverOf(disk));
        Assert.AreEqual(string.Empty, _tree.OverrideOf(disk));
        Assert.IsNull(FormerDriver.TryLoad(_state, disk));
    }

    [TestMethod]
    public void A_driver_that_does_not_let_go_is_a_time_out_and_keeps_the_device()
    {
        _tree.AddDriver("vfio-pci");
        _tree.AddDriver("virtio-pci");
        _tree.MakeStubborn("virtio-pci");
        PciAddress disk = _tree.AddDevice("0000:00:04.0", 3, "virtio-pci");

        LinuxException e = Assert.ThrowsExactly<LinuxException>(() => ImpatientBinding.Bind([disk]));

        Assert.AreEqual(Errno.ETIMEDOUT, e.Errno);
        StringAssert.Contains(e.Message, "virtio-pci to let go", StringComparison.Ordinal);
        Assert.AreEqual("virtio-pci", _tree.DriverOf(disk));
        Assert.AreEqual(string.Empty, _tree.OverrideOf(disk));
    }

    [TestMethod]
    public void When_the_second_device_fails_the_first_goes_back()
    {
        _tree.AddDriver("vfio-pci");
        _tree.AddDriver("virtio-pci");
        _tree.AddDriver("e1000e");
        _tree.MakeStubborn("e1000e");
        PciAddress disk = _tree.AddDevice("0000:00:04.0", 3, "virtio-pci");
        PciAddress card = _tree.AddDevice("0000:00:05.0", 3, "e1000e", 0x8086, 0x10d3, 0x020000);

        Assert.ThrowsExactly<LinuxException>(() => ImpatientBinding.Bind([disk, card]));

        Assert.AreEqual("virtio-pci", _tree.DriverOf(disk));
        Assert.AreEqual("e1000e", _tree.DriverOf(card));
    }

    [TestMethod]
    public void Without_the_module_the_cure_is_modprobe()
    {
        _tree.AddDriver("virtio-pci");
        PciAddress disk = _tree.AddDevice("0000:00:04.0", 3, "virtio-pci");
        LinuxException e = Assert.ThrowsExactly<LinuxException>(() => Binding.Bind([disk]));
        Assert.AreEqual("modprobe vfio-pci", e.Cure);
        Assert.AreEqual("virtio-pci", _tree.DriverOf(disk));
    }

    [TestMethod]
    public void Without_an_iommu_the_message_says_so()
    {
        _tree.AddDriver("vfio-pci");
        PciAddress disk = _tree.AddDevice("0000:00:04.0", null, null);
        LinuxException e = Assert.ThrowsExactly<LinuxException>(() => Binding.Bind([disk]));
        Assert.AreEqual(Errno.ENODEV, e.Errno);
        StringAssert.Contains(e.Message, "no IOMMU is on in this machine", StringComparison.Ordinal);
    }

    [TestMethod]
    public void A_missing_device_is_named()
    {
        LinuxException e = Assert.ThrowsExactly<LinuxException>(() => Binding.Bind([PciAddress.Parse("0000:00:1f.7")]));
        Assert.AreEqual(Errno.ENODEV, e.Errno);
        StringAssert.Contains(e.Message, "0000:00:1f.7", StringComparison.Ordinal);
    }

    [TestMethod]
    public void A_mounted_disk_is_kept_unless_forced()
    {
        _tree.AddDriver("vfio-pci");
        _tree.AddDriver("virtio-pci");
        PciAddress disk = _tree.AddDevice("0000:00:04.0", 3, "virtio-pci");
        string below = Path.Combine(_tree.Root, "sys/devices/pci0000:00/0000:00:04.0/virtio1/block/vda");
        Directory.CreateDirectory(Path.Combine(below, "holders"));
        File.WriteAllText(Path.Combine(below, "dev"), "254:0\n");
        _tree.Link("sys/class/block/vda", below);
        _tree.WriteFile("proc/self/mountinfo", "36 35 254:0 / /home rw,noatime shared:1 - ext4 /dev/vda rw\n");

        LinuxException e = Assert.ThrowsExactly<LinuxException>(() => Binding.Bind([disk]));
        Assert.AreEqual(Errno.EBUSY, e.Errno);
        StringAssert.Contains(e.Message, "vda on /home", StringComparison.Ordinal);
        Assert.AreEqual("virtio-pci", _tree.DriverOf(disk));

        Assert.AreEqual("vfio-pci", Binding.Bind([disk], force: true)[0].Driver);
    }

    [TestMethod]
    public void Unbind_names_the_process_that_holds_the_group()
    {
        _tree.AddDriver("vfio-pci");
        _tree.AddDriver("virtio-pci");
        PciAddress disk = _tree.AddDevice("0000:00:04.0", 3, "virtio-pci");
        Binding.Bind([disk]);
        _tree.WriteFile("proc/77/comm", "testpmd\n");
        _tree.Link("proc/77/fd/5", "/dev/vfio/3");

        LinuxException e = Assert.ThrowsExactly<LinuxException>(() => Binding.Unbind([disk]));

        Assert.AreEqual(Errno.EBUSY, e.Errno);
        StringAssert.Contains(e.Message, "testpmd (pid 77)", StringComparison.Ordinal);
        Assert.AreEqual("vfio-pci", _tree.DriverOf(disk));
    }

    [TestMethod]
    public void Unbind_of_a_device_that_is_not_on_vfio_pci_is_refused()
    {
        _tree.AddDriver("virtio-pci");
        PciAddress disk = _tree.AddDevice("0000:00:04.0", 3, "virtio-pci");
        LinuxException e = Assert.ThrowsExactly<LinuxException>(() => Binding.Unbind([disk]));
        StringAssert.Contains(e.Message, "the driver virtio-pci has it", StringComparison.Ordinal);
    }

    [TestMethod]
    public void A_bridge_is_refused()
    {
        _tree.AddDriver("vfio-pci");
        PciAddress bridge = _tree.AddDevice("0000:00:01.0", 1, "pcieport", 0x8086, 0x3420, 0x060400);
        LinuxException e = Assert.ThrowsExactly<LinuxException>(() => Binding.Bind([bridge]));
        StringAssert.Contains(e.Message, "takes no bridges", StringComparison.Ordinal);
    }
}
