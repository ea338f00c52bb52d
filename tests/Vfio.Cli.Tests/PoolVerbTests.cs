using System.Net.Sockets;
using System.Text.Json;
using Vfio.Linux;
using Vfio.Service;

namespace Vfio.Cli.Tests;

[TestClass]
public sealed class PoolVerbTests
{
    private static readonly string[] Create = ["pool", "create", "demo", "--size", "4MiB", "--page-size", "4KiB", "--device", CliRig.Device];

    [TestMethod]
    public void A_pool_is_made_shown_and_destroyed_with_one_map_call()
    {
        using CliRig rig = new CliRig().WithDaemon();
        JsonElement made = rig.RunJson(Create);
        Assert.AreEqual(1, made.GetProperty("mapCalls").GetInt32());
        Assert.AreEqual(4u << 20, made.GetProperty("pinnedBytes").GetUInt32());
        Assert.HasCount(1, rig.Host.Kernel.Mappings);
        Assert.AreEqual("demo", rig.RunJson("pool", "list")[0].GetProperty("name").GetString());

        CliOutcome shown = rig.Run("pool", "show", "demo");
        StringAssert.Contains(shown.Output, "map calls      1\n", StringComparison.Ordinal);
        Assert.DoesNotContain('\e', shown.Output);

        Assert.AreEqual(0, rig.Run("pool", "destroy", "demo").Code);
        Assert.IsEmpty(rig.Host.Kernel.Mappings);
        rig.Host.Kernel.AssertNothingLeft();
    }

    [TestMethod]
    public void A_pool_grows_and_shrinks_by_segments()
    {
        using CliRig rig = new CliRig().WithDaemon();
        rig.RunJson(Create);
        Assert.AreEqual(2, rig.RunJson("pool", "grow", "demo", "--by", "1MiB").GetProperty("segments").GetArrayLength());
        Assert.HasCount(2, rig.Host.Kernel.Mappings);
        StringAssert.Contains(rig.RunFailing("pool", "shrink", "demo", "--by", "2MiB"), "--grain", StringComparison.Ordinal);
        Assert.AreEqual(1, rig.RunJson("pool", "shrink", "demo", "--by", "1MiB").GetProperty("segments").GetArrayLength());
    }

    [TestMethod]
    public async Task The_threads_that_populate_are_told_to_the_daemon()
    {
        using var rig = new CliRig();
        // One that hears a request, and ends.
        using var daemon = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        daemon.Bind(new UnixDomainSocketEndPoint(rig.SocketPath));
        daemon.Listen();
        string[] grow = ["pool", "grow", "demo", "--by", "1MiB"];
        Assert.AreEqual(3, await Heard([.. Create, "--populate-threads", "3"]));
        Assert.AreEqual(2, await Heard([.. grow, "--populate-threads", "2"]));
        Assert.AreEqual(0, await Heard(Create));
        Assert.IsNull(await Heard(grow));

        async Task<int?> Heard(string[] line)
        {
            Task<CliOutcome> run = Task.Run(() => rig.Run(line));
            string? request;
            using (Socket client = await daemon.AcceptAsync())
            using (var reader = new StreamReader(new NetworkStream(client)))
            {
                request = await reader.ReadLineAsync();
            }

            Assert.AreEqual(1, (await run).Code);
            using JsonDocument document = JsonDocument.Parse(request!);
            return document.RootElement.GetProperty("params").TryGetProperty("populateThreads", out JsonElement threads)
                && threads.ValueKind == JsonValueKind.Number ? threads.GetInt32() : null;
        }
    }

    [TestMethod]
    public void The_end_of_the_daemon_leaves_nothing_pinned()
    {
        using CliRig rig = new CliRig().WithDaemon();
        rig.RunJson(Create);
        rig.StopDaemon();
        Assert.IsEmpty(rig.Host.Kernel.Mappings);
        rig.Host.Kernel.AssertNothingLeft();
        Assert.IsFalse(File.Exists(rig.SocketPath));
    }

    [TestMethod]
    [DataRow("dma_entry_limit: 4 entries needed, 2 entries there, 2 entries short", "echo", "--size 4MiB --page-size 4KiB --grain 1MiB")]
    [DataRow("RLIMIT_MEMLOCK: 4 MiB needed, 1 MiB there, 3 MiB short", "LimitMEMLOCK=4194304", "--size 4MiB --page-size 4KiB")]
    [DataRow("memory: 64 GiB needed", "ask for less than", "--size 64GiB --page-size 4KiB")]
    [DataRow("huge pages: 4 pages of 2MiB needed, 1 pages of 2MiB there, 3 pages of 2MiB short", "nr_hugepages", "--size 8MiB --page-size 2MiB")]
    [DataRow("size: 8 KiB needed", "ask for 8 KiB", "--size 5000 --page-size 4KiB")]
    public void A_pool_over_a_limit_says_the_limit_the_need_and_the_cure_and_leaves_everything_as_it_was(string limit, string cure, string shape)
    {
        ArgumentNullException.ThrowIfNull(limit);
        ArgumentNullException.ThrowIfNull(shape);
        using CliRig rig = new CliRig().WithDaemon();
        rig.Host.Kernel.EntryLimit = 2;
        rig.Tell("/proc/meminfo", "MemTotal: 16384000 kB\nMemFree: 1 kB\nMemAvailable: 8192000 kB\n");
        rig.Tell("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "1\n");
        rig.Tell("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "1\n");
        rig.Tell("/sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages", "0\n");
        if (limit.StartsWith("RLIMIT", StringComparison.Ordinal))
        {
            rig.Tell("/proc/self/limits", "Max locked memory 1048576 1048576 bytes\n");
            rig.Tell("/proc/self/status", "VmLck:\t       0 kB\nCapEff:\t0000000000000000\n");
        }

        string error = rig.RunFailing(["pool", "create", "demo", "--device", CliRig.Device, .. shape.Split(' ')]);
        Assert.Contains(limit, error);
        Assert.Contains("Cure: ", error);
        Assert.Contains(cure, error[error.IndexOf("Cure: ", StringComparison.Ordinal)..]);
        Assert.AreEqual(0, rig.Host.Kernel.Count("VFIO_IOMMU_MAP_DMA"));
        Assert.AreEqual(0, rig.RunJson("pool", "list").GetArrayLength());
        rig.Host.Kernel.AssertNothingLeft();

        // The plan says the same before, and asks for nothing.
        CliOutcome plan = rig.Run(["pool", "plan", "--device", CliRig.Device, .. shape.Split(' ')]);
        Assert.AreEqual(1, plan.Code);
        Assert.Contains($"cannot work: {limit}", plan.Output);
        rig.Host.Kernel.AssertNothingLeft();
    }

    [TestMethod]
    public void A_node_that_cannot_be_had_is_told()
    {
        using CliRig rig = new CliRig().WithDaemon();
        JsonElement made = rig.RunJson([.. Create, "--numa-node", "63"]);
        string refused = made.GetProperty("segments")[0].GetProperty("nodeRefused").GetString()!;
        Assert.Contains($"mbind: {refused}", rig.Run("pool", "show", "demo").Output);
    }

    [TestMethod]
    public void Two_pools_share_a_devices_address_space()
    {
        using CliRig rig = new CliRig().WithDaemon();
        rig.RunJson(Create);
        rig.RunJson("pool", "create", "second", "--size", "1MiB", "--page-size", "4KiB", "--device", CliRig.Device);
        Assert.HasCount(2, rig.Host.Kernel.Mappings);
        rig.Run("pool", "destroy", "demo");
        Assert.HasCount(1, rig.Host.Kernel.Mappings);
    }

    [TestMethod]
    public void A_plan_touches_nothing_and_an_impossible_one_is_exit_code_1()
    {
        using var rig = new CliRig();
        JsonElement plan = rig.RunJson("pool", "plan", "--size", "4MiB", "--page-size", "4KiB", "--device", CliRig.Device);
        Assert.IsTrue(plan.GetProperty("canWork").GetBoolean());
        Assert.AreEqual(1, plan.GetProperty("mapCalls").GetInt32());
        Assert.IsFalse(plan.GetProperty("assumed").GetBoolean());
        Assert.AreEqual(0, rig.Host.Kernel.Count("VFIO_IOMMU_MAP_DMA"));
        rig.Host.Kernel.AssertNothingLeft();

        CliOutcome bad = rig.Run("pool", "plan", "--size", "4097", "--page-size", "4KiB");
        Assert.AreEqual(1, bad.Code);
        StringAssert.Contains(bad.Output, "cannot work: size", StringComparison.Ordinal);
    }

    [TestMethod]
    public void An_export_that_finds_no_room_says_so()
    {
        using CliRig rig = new CliRig().WithDaemon();
        rig.RunJson(Create);
        StringAssert.Contains(
            rig.RunFailing("dirty", "export", "demo", "--base", "--out", "/dev/full"),
            "write: ENOSPC (28): the export of pool demo. Cause: the file system is full. Cure: ", StringComparison.Ordinal);
    }

    [TestMethod]
    public void Checkpoints_of_a_pool_go_back_into_another()
    {
        using CliRig rig = new CliRig().WithDaemon();
        rig.RunJson(Create);
        rig.RunJson("pool", "create", "copy", "--size", "4MiB", "--page-size", "4KiB", "--device", CliRig.Device);
        rig.RunJson("dirty", "export", "demo", "--base", "--out", rig.PathOf("base"));
        WriteInto(rig, "demo", "one page of the pool");
        JsonElement changes = rig.RunJson("dirty", "export", "demo", "--out", rig.PathOf("changes"));
        Assert.AreEqual("Exact", changes.GetProperty("precision").GetString());
        Assert.AreEqual(4096, changes.GetProperty("dataBytes").GetInt32());

        rig.RunJson("pool", "restore", "copy", rig.PathOf("base"), rig.PathOf("changes"));
        Assert.AreEqual("one page of the pool", ReadFrom(rig, "copy", 20));

        StringAssert.Contains(rig.RunFailing("pool", "restore", "copy", rig.PathOf("changes")), "name the base first", StringComparison.Ordinal);
        Assert.AreEqual("one page of the pool", ReadFrom(rig, "copy", 20));
    }

    [TestMethod]
    public void An_export_follows_the_one_that_is_named_or_is_refused_and_loses_no_mark()
    {
        using CliRig rig = new CliRig().WithDaemon();
        rig.RunJson(Create);
        string first = rig.RunJson("dirty", "export", "demo", "--base", "--out", rig.PathOf("base")).GetProperty("id").GetString()!;
        WriteInto(rig, "demo", "one page of the pool");
        JsonElement range = rig.RunJson("dirty", "show", "demo").GetProperty("ranges").EnumerateArray().Single();
        Assert.AreEqual(4096, range.GetProperty("length").GetInt32());
        string other = rig.RunFailing("dirty", "export", "demo", "--since", Guid.NewGuid().ToString(), "--out", rig.PathOf("other"));
        Assert.Contains($"the pool's record counts from export {first}", other);
        Assert.IsFalse(File.Exists(rig.PathOf("other")));
        JsonElement changes = rig.RunJson("dirty", "export", "demo", "--since", first, "--out", rig.PathOf("changes"));
        Assert.AreEqual(first, changes.GetProperty("follows").GetString());
        Assert.AreEqual(4096, changes.GetProperty("dataBytes").GetInt32());
        Assert.IsEmpty(rig.RunJson("dirty", "show", "demo").GetProperty("ranges").EnumerateArray());
    }

    [TestMethod]
    public void A_pool_shrinks_by_the_grain_that_it_was_made_with()
    {
        using CliRig rig = new CliRig().WithDaemon();
        rig.RunJson("pool", "create", "cut", "--size", "4MiB", "--page-size", "4KiB", "--grain", "1MiB", "--device", CliRig.Device);
        Assert.Contains("shrink by 1 MiB", rig.RunFailing("pool", "shrink", "cut", "--by", "4KiB"));
        rig.RunJson("pool", "shrink", "cut", "--by", "1MiB");
        rig.RunJson("pool", "shrink", "cut", "--by", "2MiB");
        rig.RunJson("pool", "destroy", "cut");
    }

    [TestMethod]
    public void A_stream_is_refused_for_an_export_with_the_reason_and_nothing_changes()
    {
        using CliRig rig = new CliRig().WithDaemon();
        rig.RunJson(Create);
        rig.RunJson("dirty", "export", "demo", "--base", "--out", rig.PathOf("base"));
        WriteInto(rig, "demo", "one page of the pool");
        string pipe = rig.MakePipe("pipe");
        foreach (string stream in new[] { pipe, "/dev/ptmx" })
        {
            string export = rig.RunFailing("dirty", "export", "demo", "--out", stream);
            Assert.Contains($"ESPIPE (29): {stream} is a stream (a pipe or a terminal)", export);
            Assert.Contains("Cause: an export counts as made when it is on the disk", export);
            Assert.Contains("Cure: name a file", export);
            Assert.Contains("Cause: an export is checked before the first byte is put back", rig.RunFailing("pool", "restore", "demo", rig.PathOf("base"), stream));
        }

        Assert.Contains("standard input is a stream", rig.RunFailing("pool", "restore", "demo", "-"));
        Assert.AreEqual("one page of the pool", ReadFrom(rig, "demo", 20));
        Assert.AreEqual(1, rig.RunJson("dirty", "show", "demo").GetProperty("dirtyPages").GetInt32());
    }

    [TestMethod]
    public void A_stream_that_a_client_hands_over_is_refused_by_the_daemon_too()
    {
        using CliRig rig = new CliRig().WithDaemon();
        rig.RunJson(Create);
        (UnixSocket near, UnixSocket far) = UnixSocket.Pair();
        using (near)
        using (far)
        using (var control = ControlClient.Connect(rig.SocketPath))
        {
            OperationContext context = new() { Descriptors = [near.Descriptor] };
            LinuxException e = Assert.ThrowsExactly<LinuxException>(() => control.Invoke(DirtyOperations.Export, new ExportRequest("demo", Base: true), context));
            Assert.Contains(DirtyOperations.ExportNeedsFile, e.Message);
            e = Assert.ThrowsExactly<LinuxException>(() => control.Invoke(DirtyOperations.Restore, new PoolName("demo"), context));
            Assert.Contains(DirtyOperations.RestoreNeedsFile, e.Message);
        }
    }

    [TestMethod]
    public void An_export_that_fails_leaves_the_file_that_was_there()
    {
        using CliRig rig = new CliRig().WithDaemon();
        rig.RunJson(Create);
        File.WriteAllText(rig.PathOf("kept"), "old");
        rig.RunFailing("dirty", "export", "demo", "--out", rig.PathOf("kept"));
        Assert.AreEqual("old", File.ReadAllText(rig.PathOf("kept")));
        Assert.HasCount(2, Directory.GetFiles(Path.GetDirectoryName(rig.SocketPath)!));
    }

    [TestMethod]
    public void Every_kernel_call_of_pool_create_may_fail_and_leaves_nothing()
    {
        int calls;
        using (CliRig whole = new CliRig().WithDaemon())
        {
            int before = whole.Host.Kernel.FailableCalls;
            whole.RunJson(Create);
            calls = whole.Host.Kernel.FailableCalls - before;
        }

        Assert.IsGreaterThan(5, calls);
        for (int n = 1; n <= calls; n++)
        {
            using CliRig rig = new CliRig().WithDaemon();
            rig.Host.Kernel.FailAt(n, Errno.EIO);
            CliOutcome outcome = rig.Run(Create);
            rig.Host.Kernel.FailNothing();
            if (outcome.Code != 0)
            {
                Assert.Contains("EIO (5)", outcome.Error, $"call {n}");
                Assert.AreEqual(0, rig.RunJson("pool", "list").GetArrayLength(), $"call {n}");
                rig.Host.Kernel.AssertNothingLeft();
                rig.RunJson(Create);
            }

            rig.StopDaemon();
            rig.Host.Kernel.AssertNothingLeft();
        }
    }

    private static void WriteInto(CliRig rig, string name, string text)
    {
        PinnedPool pool = rig.PoolOf(name).Pool;
        PinnedBuffer page = FirstPage(pool, text.Length);
        System.Text.Encoding.ASCII.GetBytes(text).CopyTo(page.Span);
        pool.Dirty!.Written(page);
    }

    private static string ReadFrom(CliRig rig, string name, int length) =>
        System.Text.Encoding.ASCII.GetString(FirstPage(rig.PoolOf(name).Pool, length).Span);

    private static PinnedBuffer FirstPage(PinnedPool pool, int length) =>
        new(pool.Segments[0].Iova, pool.Segments[0].Address, length);
}
