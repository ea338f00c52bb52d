namespace Vfio.Cli.Tests;

/// <summary>Each gives one clear message and exit code 1, and changes nothing; the same with a daemon and without.</summary>
[TestClass]
public sealed class BadInputTests
{
    private static string[] Create(string device = CliRig.Device, string size = "4MiB", string page = "4KiB") =>
        ["pool", "create", "demo", "--size", size, "--page-size", page, "--device", device];

    private static string[] Info(string device) => ["blk", "info", device];

    [TestMethod]
    public void No_daemon()
    {
        using var rig = new CliRig();
        StringAssert.Contains(rig.RunFailing(Create()), "no daemon is running there. Cure: start one: vfiopin daemon &", StringComparison.Ordinal);
        StringAssert.Contains(rig.RunFailing("blk", "read", CliRig.Device, "--pool", "demo"), "no daemon is running", StringComparison.Ordinal);
    }

    [TestMethod]
    public async Task A_daemon_that_is_being_started_is_waited_for()
    {
        using var rig = new CliRig { DaemonStart = TimeSpan.FromMinutes(1) };
        Task<CliOutcome> list = Task.Factory.StartNew(
            () => rig.Run("pool", "list"), CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default);
        rig.WithDaemon();
        Assert.AreEqual(0, (await list).Code);
    }

    [TestMethod]
    [DataRow("--socket-path", "vhost-user-net", "--socket-path", "")]
    [DataRow("--out", "blk", "read", CliRig.Device, "--out", "")]
    [DataRow("--socket", "pool", "list", "--socket", "")]
    [DataRow("POOL", "pool", "destroy", "")]
    public void An_empty_value(string named, params string[] line)
    {
        using var rig = new CliRig();
        CliOutcome outcome = rig.Run(line);
        Assert.AreEqual(2, outcome.Code);
        StringAssert.Contains(outcome.Error, $"{named}: the value is empty", StringComparison.Ordinal);
    }

    [TestMethod]
    public void A_socket_whose_path_is_too_long()
    {
        using var rig = new CliRig();
        string path = "/tmp/" + new string('x', 103);
        StringAssert.Contains(
            rig.RunFailing("pool", "list", "--socket", path), $"connect: ENAMETOOLONG (36): {path}. Cause: the path of a socket has 1 to 107 bytes, not 108", StringComparison.Ordinal);
        StringAssert.Contains(rig.RunFailing("daemon", "--socket", path), "bind: ENAMETOOLONG", StringComparison.Ordinal);
    }

    [TestMethod]
    public void Lists_that_are_given_twice()
    {
        using var rig = new CliRig();
        CliOutcome outcome = rig.Run([.. Create(), "--page-size", "2MiB"]);
        Assert.AreEqual(2, outcome.Code);
        StringAssert.Contains(outcome.Error, "--page-size", StringComparison.Ordinal);
    }

    [TestMethod]
    public void No_iommu_in_the_machine()
    {
        using var rig = new CliRig(hasDevice: false);
        rig.Host.Tree.AddDevice("0000:00:06.0", null, null);
        string local = rig.RunFailing(Info("0000:00:06.0"));
        StringAssert.Contains(local, "no IOMMU is on in this machine", StringComparison.Ordinal);
        StringAssert.Contains(local, "intel_iommu=on", StringComparison.Ordinal);
        rig.WithDaemon();
        Assert.AreEqual(local, rig.RunFailing(Info("0000:00:06.0")));
        Assert.AreEqual(local, rig.RunFailing(Create("0000:00:06.0")));
    }

    [TestMethod]
    public void No_such_device()
    {
        using var rig = new CliRig();
        string local = rig.RunFailing(Info("0000:00:1f.0"));
        StringAssert.Contains(local, "there is no PCI device at this address", StringComparison.Ordinal);
        rig.WithDaemon();
        Assert.AreEqual(local, rig.RunFailing(Info("0000:00:1f.0")));
    }

    [TestMethod]
    public void Device_not_on_vfio_pci()
    {
        using var rig = new CliRig();
        rig.Host.Tree.AddDriver("virtio-pci");
        rig.Host.Tree.AddDevice("0000:00:06.0", 6, "virtio-pci");
        string local = rig.RunFailing(Info("0000:00:06.0"));
        StringAssert.Contains(local, "the device is bound to virtio-pci, not to vfio-pci. Cure: vfiopin device bind 0000:00:06.0", StringComparison.Ordinal);
        rig.WithDaemon();
        Assert.AreEqual(local, rig.RunFailing(Create("0000:00:06.0")));
    }

    [TestMethod]
    public void Group_not_viable()
    {
        using CliRig rig = new CliRig().WithDaemon();
        rig.Host.Tree.AddDriver("e1000e");
        rig.Host.Tree.AddDevice("0000:00:05.1", 5, "e1000e", 0x8086, 0x10d3, 0x020000);
        rig.Host.Kernel.Group(5).IsViable = false;
        string error = rig.RunFailing(Create());
        StringAssert.Contains(error, "0000:00:05.0 (vfio-pci), 0000:00:05.1 (e1000e)", StringComparison.Ordinal);
        StringAssert.Contains(error, "vfiopin device bind 0000:00:05.1", StringComparison.Ordinal);
        rig.Host.Kernel.AssertNothingLeft();
    }

    [TestMethod]
    public void Device_held_by_another_process()
    {
        using CliRig rig = new CliRig().WithDaemon();
        rig.Host.Kernel.Group(5).IsHeldElsewhere = true;
        rig.Host.Tree.WriteFile("proc/77/comm", "testpmd\n");
        rig.Host.Tree.Link("proc/77/fd/5", "/dev/vfio/5");
        string error = rig.RunFailing(Create());
        StringAssert.Contains(error, "EBUSY (16): /dev/vfio/5, held by testpmd (pid 77)", StringComparison.Ordinal);
        rig.Host.Kernel.AssertNothingLeft();
    }

    [TestMethod]
    [DataRow("0", "a pool of no bytes")]
    [DataRow("4097", "multiples of 4 KiB")]
    public void Size_that_cannot_be(string size, string cause)
    {
        using CliRig rig = new CliRig().WithDaemon();
        StringAssert.Contains(rig.RunFailing(Create(size: size)), cause, StringComparison.Ordinal);
        rig.Host.Kernel.AssertNothingLeft();
    }

    [TestMethod]
    public void Size_larger_than_memory()
    {
        using CliRig rig = new CliRig().WithDaemon();
        rig.Host.Tree.WriteFile("proc/meminfo", "MemTotal:        1024 kB\nMemAvailable:     512 kB\n");
        StringAssert.Contains(rig.RunFailing(Create()), "the machine has less memory than that", StringComparison.Ordinal);
        rig.Host.Kernel.AssertNothingLeft();
    }

    [TestMethod]
    public void No_free_huge_pages()
    {
        using CliRig rig = new CliRig().WithDaemon();
        const string Pages = "sys/kernel/mm/hugepages/hugepages-2048kB";
        rig.Host.Tree.WriteFile(Pages + "/nr_hugepages", "1\n");
        rig.Host.Tree.WriteFile(Pages + "/free_hugepages", "1\n");
        string error = rig.RunFailing(Create(page: "2MiB"));
        StringAssert.Contains(error, "2 pages of 2MiB needed, 1 pages of 2MiB there", StringComparison.Ordinal);
        StringAssert.Contains(error, "echo 2 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", StringComparison.Ordinal);
    }

    [TestMethod]
    public void Memlock_too_small()
    {
        using CliRig rig = new CliRig().WithDaemon();
        rig.Host.Tree.WriteFile("proc/self/limits", "Max locked memory         65536                65536                bytes     \n");
        rig.Host.Tree.WriteFile("proc/self/status", "VmLck:\t       0 kB\nCapEff:\t0000000000000000\n");
        string error = rig.RunFailing(Create());
        StringAssert.Contains(error, "RLIMIT_MEMLOCK: 4 MiB needed, 64 KiB there", StringComparison.Ordinal);
        StringAssert.Contains(error, "LimitMEMLOCK=4194304", StringComparison.Ordinal);
        rig.Host.Kernel.AssertNothingLeft();
    }

    [TestMethod]
    public void Pool_name_taken_or_unknown_or_no_name()
    {
        using CliRig rig = new CliRig().WithDaemon();
        rig.RunJson(Create());
        StringAssert.Contains(rig.RunFailing(Create()), "EEXIST (17): demo. Cause: there is a pool of this name", StringComparison.Ordinal);
        StringAssert.Contains(rig.RunFailing("pool", "show", "none"), "there is no pool of this name", StringComparison.Ordinal);
        StringAssert.Contains(
            rig.RunFailing("pool", "create", "a/b", "--size", "4KiB", "--page-size", "4KiB", "--device", CliRig.Device), "a pool's name has", StringComparison.Ordinal);
        Assert.AreEqual(1, rig.RunJson("pool", "list").GetArrayLength());
    }

    [TestMethod]
    public void Destroy_of_a_pool_in_use()
    {
        using CliRig rig = new CliRig().WithDaemon();
        rig.RunJson(Create());
        Action end = rig.PoolOf("demo").Use("a test");
        StringAssert.Contains(rig.RunFailing("pool", "destroy", "demo"), "the pool is in use by a test", StringComparison.Ordinal);
        Assert.HasCount(1, rig.Host.Kernel.Mappings);
        end();
        Action giveBack = rig.PoolOf("demo").Space.Devices.Single().Take("a test");
        StringAssert.Contains(rig.RunFailing(Info(CliRig.Device)), "it is in use by a test", StringComparison.Ordinal);
        giveBack();
        CliOutcome outcome = rig.Run("pool", "destroy", "demo");
        Assert.AreEqual(0, outcome.Code, outcome.Error);
        rig.Host.Kernel.AssertNothingLeft();
    }

    [TestMethod]
    public void Descriptors_that_cannot_be_handed_over_are_an_error_and_not_silence()
    {
        using CliRig rig = new CliRig().WithDaemon();
        rig.RunJson(Create());
        // The simulated kernel's descriptors mean nothing to the real socket.
        StringAssert.Contains(rig.RunFailing("attach", "demo", "--", "true"), "sendmsg: EBADF (9)", StringComparison.Ordinal);
    }

    [TestMethod]
    public void A_device_that_is_no_block_device()
    {
        using CliRig rig = new CliRig().WithDaemon();
        rig.RunJson(Create());
        StringAssert.Contains(rig.RunFailing(Info(CliRig.Device)), "virtio 0000:00:05.0: ", StringComparison.Ordinal);
        StringAssert.Contains(rig.Run("pool", "show", "demo").Output, "in use         0 bytes", StringComparison.Ordinal);
        rig.StopDaemon();
        StringAssert.Contains(rig.RunFailing(Info(CliRig.Device)), "virtio 0000:00:05.0: ", StringComparison.Ordinal);
        rig.Host.Kernel.AssertNothingLeft();
    }

    [TestMethod]
    public void Files_that_cannot_be_opened()
    {
        using var rig = new CliRig();
        StringAssert.Contains(
            rig.RunFailing("blk", "write", CliRig.Device, "--in", rig.PathOf("missing")), "open: ENOENT (2)", StringComparison.Ordinal);
        StringAssert.Contains(
            rig.RunFailing("blk", "read", CliRig.Device, "--out", rig.PathOf("no/such/place")), "open: ENOENT (2)", StringComparison.Ordinal);
    }

    [TestMethod]
    public void In_json_an_error_is_an_object_with_its_parts()
    {
        using var rig = new CliRig();
        CliOutcome outcome = rig.Run("pool", "list", "-o", "json");
        Assert.AreEqual(1, outcome.Code);
        using System.Text.Json.JsonDocument error = System.Text.Json.JsonDocument.Parse(outcome.Error);
        Assert.AreEqual("connect", error.RootElement.GetProperty("call").GetString());
        Assert.AreEqual("ENOENT", error.RootElement.GetProperty("errno").GetString());
    }
}
