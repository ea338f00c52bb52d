using System.Text.Json;
using Vfio.Testing;

namespace Vfio.Cli.Tests;

[TestClass]
public sealed class DoctorVerbTests
{
    [TestMethod]
    public void On_a_machine_without_iommu_it_fails_and_names_the_cures()
    {
        using var rig = new CliRig(hasDevice: false);
        rig.Host.Tree.WriteFile("proc/sys/kernel/osrelease", "5.9.0-test\n");
        rig.Host.Tree.WriteFile("sys/firmware/acpi/tables/DMAR", "x");
        rig.Host.Tree.WriteFile("proc/cpuinfo", "vendor_id : GenuineIntel\n");
        CliOutcome outcome = rig.Run("doctor");
        Assert.AreEqual(1, outcome.Code);
        StringAssert.Contains(outcome.Output, "failure  IOMMU: off: the firmware describes one (DMAR)", StringComparison.Ordinal);
        StringAssert.Contains(outcome.Output, "intel_iommu=on", StringComparison.Ordinal);
        StringAssert.Contains(outcome.Output, "warning  kernel: 5.9.0-test lacks: the count of entries left", StringComparison.Ordinal);
        Assert.DoesNotContain("dirty page tracking", outcome.Output);
        Assert.DoesNotContain('\e', outcome.Output);
    }

    [TestMethod]
    public void Of_a_good_machine_it_tells_the_containers_limits_and_leaves_nothing_open()
    {
        using var rig = new CliRig();
        Good(rig);
        JsonElement findings = rig.RunJson("doctor", CliRig.Device, "--size", "64KiB").GetProperty("findings");
        string[] failures = [.. findings.EnumerateArray().Where(f => f.GetProperty("status").GetString() == "Failure").Select(f => f.ToString())];
        Assert.IsEmpty(failures, string.Join('\n', failures));
        Assert.AreEqual("65535 left in a new container", Text(findings, "entries"));
        StringAssert.Contains(Text(findings, "IOVA ranges"), "0xfef00000-", StringComparison.Ordinal);
        Assert.AreEqual("4 KiB, 2 MiB, 1 GiB", Text(findings, "IOMMU page sizes"));
        rig.Host.Kernel.AssertNothingLeft();
        Assert.AreEqual(0, rig.Host.Kernel.Count("VFIO_GROUP_GET_DEVICE_FD"));
    }

    [TestMethod]
    public void A_group_that_is_not_viable_and_a_small_limit_are_failures_with_cures()
    {
        using var rig = new CliRig();
        Good(rig);
        rig.Host.Tree.AddDriver("e1000e");
        rig.Host.Tree.AddDevice("0000:00:05.1", 5, "e1000e", 0x8086, 0x10d3, 0x020000);
        rig.Host.Tree.WriteFile("proc/self/limits", "Max locked memory         65536                65536                bytes     \n");
        CliOutcome outcome = rig.Run("doctor", CliRig.Device, "--size", "1GiB");
        Assert.AreEqual(1, outcome.Code);
        StringAssert.Contains(outcome.Output, "failure  IOMMU group 5: not viable: 0000:00:05.0 (vfio-pci), 0000:00:05.1 (e1000e)", StringComparison.Ordinal);
        StringAssert.Contains(outcome.Output, "cure: vfiopin device bind 0000:00:05.1", StringComparison.Ordinal);
        StringAssert.Contains(outcome.Output, "failure  memlock: RLIMIT_MEMLOCK leaves 0 MiB, 1024 MiB are wanted", StringComparison.Ordinal);
    }

    [TestMethod]
    public void Without_interrupt_remapping_the_kernel_would_refuse()
    {
        using var rig = new CliRig();
        Good(rig);
        rig.Host.Tree.WriteFile("proc/interrupts", " 24:  1  PCI-MSI 65536-edge  virtio0\n");
        StringAssert.Contains(rig.Run("doctor").Output, "failure  interrupt remapping: off", StringComparison.Ordinal);
        rig.Host.Tree.WriteFile("sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "Y\n");
        StringAssert.Contains(rig.Run("doctor").Output, "warning  interrupt remapping: off", StringComparison.Ordinal);
    }

    private static void Good(CliRig rig)
    {
        PciSysfsTree tree = rig.Host.Tree;
        tree.WriteFile("proc/sys/kernel/osrelease", "6.1.0-9-amd64\n");
        tree.WriteFile("proc/interrupts", " 24:  1  IR-PCI-MSI 65536-edge  virtio0\n");
        tree.WriteFile("sys/module/vfio_iommu_type1/parameters/dma_entry_limit", "65535\n");
        tree.WriteFile("dev/vfio/vfio", string.Empty);
        tree.WriteFile("dev/vfio/5", string.Empty);
    }

    private static string Text(JsonElement findings, string subject) =>
        findings.EnumerateArray().Single(f => f.GetProperty("subject").GetString() == subject).GetProperty("text").GetString()!;
}
