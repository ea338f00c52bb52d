using System.Net.Sockets;
using System.Text;
using System.Text.Json;
using Vfio.Linux;
using Vfio.Service;
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
        StringAssert.Contains(outcome.Output, "failure  memlock: RLIMIT_MEMLOCK leaves 0 MiB to this process (no daemon runs), 1024 MiB are wanted", StringComparison.Ordinal);
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

    [TestMethod]
    public void The_memlock_line_tells_of_the_daemon_where_one_runs_and_says_so()
    {
        using var rig = new CliRig();
        Good(rig);
        // The daemon in the rig reads another tree than the command, as another process reads another /proc/self.
        using var daemons = new SimHost();
        daemons.Tree.WriteFile("proc/self/limits", "Max locked memory         8388608              8388608              bytes     \n");
        daemons.Tree.WriteFile("proc/self/status", "VmLck:\t    4096 kB\nCapEff:\t0000000000000000\n");
        rig.Tell("/proc/self/limits", "Max locked memory         unlimited            unlimited            bytes     \n");
        rig.Tell("/proc/self/status", "VmLck:\t       0 kB\nCapEff:\t0000000000000000\n");
        StringAssert.Contains(
            rig.Run("doctor").Output, "ok       memlock: RLIMIT_MEMLOCK of this process (no daemon runs) is unlimited", StringComparison.Ordinal);

        using (var engine = new Engine(daemons.Kernel, daemons.Sysfs))
        using (var daemon = new ControlServer(engine, rig.SocketPath, _ => { }))
        {
            string who = $"the daemon (pid {Environment.ProcessId})";
            CliOutcome outcome = rig.Run("doctor", "--size", "16MiB");
            StringAssert.Contains(outcome.Output, $"failure  memlock: RLIMIT_MEMLOCK leaves 4 MiB to {who}, 16 MiB are wanted", StringComparison.Ordinal);
            StringAssert.Contains(outcome.Output, $"prlimit --pid {Environment.ProcessId} --memlock=20971520:20971520", StringComparison.Ordinal);
            daemons.Tree.WriteFile("proc/self/status", "VmLck:\t    4096 kB\nCapEff:\t0000000000004000\n");
            StringAssert.Contains(rig.Run("doctor").Output, $"ok       memlock: {who} has CAP_IPC_LOCK", StringComparison.Ordinal);
        }
    }

    [TestMethod]
    [DataRow(null, "the daemon went away", DisplayName = "it goes away")]
    [DataRow("", "the daemon went away", DisplayName = "it is stuck")]
    [DataRow("nonsense", "not understood", DisplayName = "it talks nonsense")]
    [DataRow("""{"jsonrpc":"2.0","id":1,"result":{"version":"0.0.1","processId":7,"pools":0,"ports":0,"collections":0}}""",
        "may be of another version", DisplayName = "it is of another version")]
    public async Task A_daemon_that_does_not_answer_keeps_nothing_else_from_being_told(string? answer, string told)
    {
        using var rig = new CliRig { DaemonPatience = answer is "" ? TimeSpan.FromSeconds(2) : TimeSpan.FromMinutes(1) };
        Good(rig);
        using var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        socket.Bind(new UnixDomainSocketEndPoint(rig.SocketPath));
        socket.Listen();
        Task<CliOutcome> run = Task.Run(() => rig.Run("doctor"));
        CliOutcome outcome;
        using (Socket client = await socket.AcceptAsync())
        using (var stream = new NetworkStream(client))
        using (var reader = new StreamReader(stream))
        {
            Assert.Contains("daemon.info", await reader.ReadLineAsync() ?? string.Empty);
            if (answer is null)
            {
                client.Shutdown(SocketShutdown.Both);
            }
            else if (answer.Length != 0)
            {
                await stream.WriteAsync(Encoding.UTF8.GetBytes(answer + "\n"));
            }

            outcome = await run;
        }

        StringAssert.Contains(outcome.Output, "this process (the daemon did not answer: ", StringComparison.Ordinal);
        StringAssert.Contains(outcome.Output, told, StringComparison.Ordinal);
        StringAssert.Contains(outcome.Output, "IOVA ranges", StringComparison.Ordinal);
    }

    [TestMethod]
    public void Iommufds_compatibility_is_told_with_what_is_lost_by_it()
    {
        using var rig = new CliRig(behaviour: KernelBehaviour.Linux618 with { IsIommufd = true });
        Good(rig);
        CliOutcome outcome = rig.Run("doctor", CliRig.Device, "--size", "64KiB");
        Assert.AreEqual(0, outcome.Code, outcome.Output);
        StringAssert.Contains(outcome.Output, "warning  iommufd: the container is iommufd's compatibility: dirty tracking, ", StringComparison.Ordinal);
        StringAssert.Contains(outcome.Output, "UPDATE_VADDR", StringComparison.Ordinal);
        StringAssert.Contains(outcome.Output, "cure: use a kernel without CONFIG_IOMMUFD_VFIO_CONTAINER", StringComparison.Ordinal);
        Assert.DoesNotContain("4294967295", outcome.Output);

        using var other = new CliRig(behaviour: KernelBehaviour.Linux618);
        Good(other);
        Assert.DoesNotContain("iommufd", other.Run("doctor", CliRig.Device).Output);
    }

    [TestMethod]
    public void Device_files_are_told_with_their_modes_and_who_may_not_use_them_is_told_the_cure()
    {
        const UnixFileMode None = UnixFileMode.None;
        const UnixFileMode All = (UnixFileMode)0b110_110_110;
        using var rig = new CliRig();
        Good(rig);
        string container = rig.Host.Sysfs.Resolve("/dev/vfio/vfio");
        string group = rig.Host.Sysfs.Resolve("/dev/vfio/5");
        File.SetUnixFileMode(container, All);
        File.SetUnixFileMode(group, UnixFileMode.UserRead | UnixFileMode.UserWrite);
        string good = rig.Run("doctor").Output;
        StringAssert.Contains(good, "ok       /dev/vfio/vfio: mode 0666, usable by this user", StringComparison.Ordinal);
        StringAssert.Contains(good, "ok       /dev/vfio/5: mode 0600, usable by this user", StringComparison.Ordinal);

        File.SetUnixFileMode(container, None);
        File.SetUnixFileMode(group, None);
        CliOutcome bad = rig.Run("doctor");
        if (UnixIdentity.EffectiveUser == 0)
        {
            // Root may use any file.
            StringAssert.Contains(bad.Output, "ok       /dev/vfio/5: mode 0000, usable by this user", StringComparison.Ordinal);
        }
        else
        {
            Assert.AreEqual(1, bad.Code);
            StringAssert.Contains(bad.Output, "failure  /dev/vfio/vfio: mode 0000, not usable by this user\n         cure: chmod 0666 /dev/vfio/vfio", StringComparison.Ordinal);
            StringAssert.Contains(bad.Output, "warning  /dev/vfio/5: mode 0000, not usable by this user\n         cure: chown $USER /dev/vfio/5", StringComparison.Ordinal);
        }

        File.Delete(container);
        StringAssert.Contains(rig.Run("doctor").Output, "failure  /dev/vfio/vfio: is not there\n         cure: modprobe vfio-pci", StringComparison.Ordinal);
    }

    [TestMethod]
    public void Huge_pages_are_told_for_each_node_and_too_few_with_the_command_that_reserves_them()
    {
        using var rig = new CliRig();
        Good(rig);
        HugePages("/sys/kernel/mm/hugepages", total: 48, free: 20);
        HugePages("/sys/devices/system/node/node0/hugepages", total: 16, free: 4);
        HugePages("/sys/devices/system/node/node1/hugepages", total: 32, free: 16);
        StringAssert.Contains(
            rig.Run("doctor", "--size", "40MiB").Output, "ok       huge pages of 2MiB: 20 of 48 free (node 0: 4 of 16, node 1: 16 of 32)\n", StringComparison.Ordinal);
        CliOutcome few = rig.Run("doctor", "--size", "42MiB");
        StringAssert.Contains(
            few.Output, "warning  huge pages of 2MiB: 20 of 48 free (node 0: 4 of 16, node 1: 16 of 32), 21 are needed\n", StringComparison.Ordinal);
        StringAssert.Contains(few.Output, "cure: echo 49 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", StringComparison.Ordinal);
        StringAssert.Contains(few.Output, "warning  huge pages of 1GiB: this kernel or processor has none of this size", StringComparison.Ordinal);

        void HugePages(string root, int total, int free)
        {
            rig.Tell($"{root}/hugepages-2048kB/nr_hugepages", $"{total}\n");
            rig.Tell($"{root}/hugepages-2048kB/free_hugepages", $"{free}\n");
        }
    }

    [TestMethod]
    public void No_iommu_mode_is_warned_of_and_its_groups_are_taken_for_no_iommu()
    {
        using var rig = new CliRig(hasDevice: false);
        rig.Tell("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "N\n");
        Assert.DoesNotContain("no-IOMMU mode", rig.Run("doctor").Output);
        rig.Tell("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y\n");
        rig.Host.Tree.AddDevice(CliRig.Device, 0, "vfio-pci");
        rig.Tell("/sys/kernel/iommu_groups/0/name", "vfio-noiommu\n");
        CliOutcome outcome = rig.Run("doctor", CliRig.Device);
        Assert.AreEqual(1, outcome.Code);
        StringAssert.Contains(outcome.Output, "failure  IOMMU: none: ", StringComparison.Ordinal);
        StringAssert.Contains(outcome.Output, "warning  no-IOMMU mode: allowed: ", StringComparison.Ordinal);
        StringAssert.Contains(outcome.Output, "cure: echo N > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode", StringComparison.Ordinal);
        StringAssert.Contains(outcome.Output, $"failure  device {CliRig.Device}: it is in no IOMMU group: nothing translates its DMA", StringComparison.Ordinal);
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
