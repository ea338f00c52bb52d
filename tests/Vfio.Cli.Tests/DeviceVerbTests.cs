using System.Text.Json;

namespace Vfio.Cli.Tests;

[TestClass]
public sealed class DeviceVerbTests
{
    [TestMethod]
    public void Devices_are_listed_in_plain_lines_when_nobody_watches()
    {
        using var rig = new CliRig();
        CliOutcome outcome = rig.Run("device", "list");
        Assert.AreEqual(0, outcome.Code);
        Assert.AreEqual(
            "ADDRESS       ID         CLASS       VIRTIO  DRIVER    GROUP  NODE\n"
            + "0000:00:05.0  1234:11e8  class 00ff  -       vfio-pci  5      -\n",
            outcome.Output);
    }

    [TestMethod]
    public void Bind_and_unbind_go_through_the_state_directory()
    {
        using var rig = new CliRig();
        rig.Host.Tree.AddDriver("virtio-pci");
        rig.Host.Tree.AddDevice("0000:00:06.0", 6, "virtio-pci");
        Assert.AreEqual("vfio-pci", rig.RunJson("device", "bind", "0000:00:06.0")[0].GetProperty("driver").GetString());
        Assert.AreEqual("virtio-pci", rig.RunJson("device", "unbind", "0000:00:06.0")[0].GetProperty("driver").GetString());
    }

    [TestMethod]
    public void A_device_is_shown_with_its_group_and_the_command_that_makes_it_usable()
    {
        using var rig = new CliRig();
        rig.Host.Tree.AddDriver("e1000e");
        rig.Host.Tree.AddDevice("0000:00:05.1", 5, "e1000e", 0x8086, 0x10d3, 0x020000);
        JsonElement detail = rig.RunJson("device", "show", CliRig.Device);
        Assert.IsFalse(detail.GetProperty("groupViable").GetBoolean());
        Assert.AreEqual("vfiopin device bind 0000:00:05.1", detail.GetProperty("cure").GetString());
    }

    [TestMethod]
    public void A_device_that_is_not_on_vfio_pci_is_not_unbound()
    {
        using var rig = new CliRig();
        rig.Host.Tree.AddDriver("virtio-pci");
        rig.Host.Tree.AddDevice("0000:00:06.0", 6, "virtio-pci");
        StringAssert.Contains(rig.RunFailing("device", "unbind", "0000:00:06.0"), "the driver virtio-pci has it", StringComparison.Ordinal);
    }
}
