using System.Text.Json;
using Vfio.Linux;
using Vfio.Testing.VhostUser;
using Vfio.Virtio;

namespace Vfio.Cli.Tests;

[TestClass]
public sealed class PortVerbTests
{
    [TestMethod]
    public void A_port_is_added_listed_shown_and_removed_with_a_front_end_at_it()
    {
        using CliRig rig = new CliRig().WithDaemon();
        JsonElement added = rig.RunJson(Add(rig, "vm0", "--cores", Core()));
        Assert.AreEqual("Listening", added.GetProperty("state").GetString());
        using (var guest = new PortGuest(rig.PathOf("vm0.sock")))
        {
            Assert.IsTrue(guest.RoundTrip(1));
            JsonElement listed = rig.RunJson("port", "list")[0];
            Assert.AreEqual("vm0", listed.GetProperty("name").GetString());
            Assert.AreEqual("Connected", listed.GetProperty("state").GetString());
            Assert.AreEqual(1, listed.GetProperty("fromGuest").GetProperty("frames").GetInt32());
            Assert.AreEqual(0, listed.GetProperty("toGuest").GetProperty("drops").GetProperty("noBuffer").GetInt32());

            CliOutcome shown = rig.Run("port", "show", "vm0");
            StringAssert.Contains(shown.Output, "state              connected\n", StringComparison.Ordinal);
            StringAssert.Contains(shown.Output, "from guest         1 frames, 200 bytes, 0 dropped\n", StringComparison.Ordinal);
            StringAssert.Contains(shown.Output, "RING        STATE    SIZE  FRAMES  BYTES  BURSTS  KICKS  CALLS  DROPPED\n", StringComparison.Ordinal);
            StringAssert.Contains(shown.Output, "0 receive   running  64    1       200    1", StringComparison.Ordinal);
            Assert.DoesNotContain('\e', shown.Output);
            StringAssert.Contains(rig.Run("port", "list").Output, "vm0   connected  io       -     1       1         1           1         0\n", StringComparison.Ordinal);
        }

        CliOutcome removed = rig.Run("port", "remove", "vm0");
        Assert.AreEqual(0, removed.Code, removed.Error);
        StringAssert.Contains(removed.Output, "to guest    1 frames, 200 bytes, 0 dropped\n", StringComparison.Ordinal);
        Assert.AreEqual(0, rig.RunJson("port", "list").GetArrayLength());
        Assert.IsFalse(File.Exists(rig.PathOf("vm0.sock")));
    }

    [TestMethod]
    public void A_ring_that_was_broken_stays_counted_when_its_session_has_ended()
    {
        using CliRig rig = new CliRig().WithDaemon();
        rig.RunJson(Add(rig, "vm0"));
        using (var guest = new PortGuest(rig.PathOf("vm0.sock")))
        {
            guest.BreakTransmitRing();
            PortGuest.Until(() => Shown("fromGuest").GetProperty("broken").GetInt32() == 1, "nobody counts the broken ring");
        }

        Assert.AreEqual("Listening", WaitFor(rig, "Listening"));
        Assert.AreEqual(1, Shown("fromGuest").GetProperty("breaks").GetProperty("AccessDenied").GetInt32());
        Assert.AreEqual(0, Shown("toGuest").GetProperty("broken").GetInt32());
        StringAssert.Contains(
            rig.Run("port", "show", "vm0").Output, "0 frames, 0 bytes, 0 dropped, rings broken 1 times (1 AccessDenied)\n", StringComparison.Ordinal);

        JsonElement Shown(string direction) => rig.RunJson("port", "show", "vm0").GetProperty(direction);
    }

    [TestMethod]
    public void A_path_is_the_callers_own_and_not_the_daemons()
    {
        using CliRig rig = new CliRig().WithDaemon();
        string relative = Path.GetRelativePath(Environment.CurrentDirectory, rig.PathOf("vm0.sock"));
        JsonElement added = rig.RunJson("port", "add", "vm0", "--socket-path", relative, "--page-size", "4KiB");
        Assert.AreEqual(rig.PathOf("vm0.sock"), added.GetProperty("socketPath").GetString());
    }

    [TestMethod]
    public void An_inherited_socket_is_handed_to_the_daemon()
    {
        using CliRig rig = new CliRig().WithDaemon();
        (UnixSocket ours, UnixSocket theirs) = UnixSocket.Pair();
        // The program closes what it was started with.
        FileDescriptor inherited = theirs.Descriptor.Duplicate();
        theirs.Dispose();
        JsonElement added = rig.RunJson(
            "port", "add", "vm0", "--fd", inherited.Number.ToString(System.Globalization.CultureInfo.InvariantCulture), "--page-size", "4KiB");
        inherited.SetHandleAsInvalid();
        Assert.AreEqual("Connected", WaitFor(rig, "Connected") ?? added.GetProperty("state").GetString());
        using (var guest = new PortGuest(ours))
        {
            Assert.IsTrue(guest.RoundTrip(1));
        }

        Assert.AreEqual("Ended", WaitFor(rig, "Ended"));
    }

    [TestMethod]
    public void Memory_is_pinned_for_a_device_and_a_peer_that_is_missing_is_told()
    {
        using CliRig rig = new CliRig().WithDaemon();
        CliOutcome added = rig.Run(Add(rig, "vm0", "--device", CliRig.Device, "--peer", "vm1"));
        Assert.AreEqual(0, added.Code, added.Error);
        StringAssert.Contains(added.Output, "peer        vm1, which is not there: frames are dropped\n", StringComparison.Ordinal);
        StringAssert.Contains(added.Output, "memory      pool port-vm0\n", StringComparison.Ordinal);
        Assert.HasCount(1, rig.Host.Kernel.Mappings);
        StringAssert.Contains(rig.RunFailing("pool", "destroy", "port-vm0"), "the pool is in use by port vm0", StringComparison.Ordinal);
        Assert.AreEqual(0, rig.Run("port", "remove", "vm0").Code);
        rig.Host.Kernel.AssertNothingLeft();
    }

    [TestMethod]
    public void The_translations_of_a_port_are_as_many_as_was_said()
    {
        using CliRig rig = new CliRig().WithDaemon();
        rig.RunJson(Add(rig, "vm0", "--iotlb-size", "1024"));
        UnixSocket socket = UnixSocket.TryConnect(rig.PathOf("vm0.sock"), out Errno errno) ?? throw new LinuxException("connect", errno, "vm0.sock");
        using var guest = new IotlbGuest(socket, VirtioFeatures.Version1, 2 << 20, 64, hasIommu: true);
        for (ulong i = 0; i < 1100; i++)
        {
            // Every other page: nothing merges.
            guest.Frontend.Update(IovaRange.Of(new Iova(0x100_0000_0000 + (i * 8192)), 4096), guest.AddressOf(0), DmaAccess.Read);
        }

        guest.Frontend.Enable(0, true);
        JsonElement iotlb = rig.RunJson("port", "show", "vm0").GetProperty("session").GetProperty("iotlb");
        Assert.IsLessThanOrEqualTo(1024, iotlb.GetProperty("entries").GetInt32());
        Assert.IsGreaterThanOrEqualTo(1100 - 1024, iotlb.GetProperty("evicted").GetInt32());
    }

    [TestMethod]
    public void The_end_of_the_daemon_ends_its_ports()
    {
        using CliRig rig = new CliRig().WithDaemon();
        rig.RunJson(Add(rig, "vm0", "--device", CliRig.Device));
        using var guest = new PortGuest(rig.PathOf("vm0.sock"));
        Assert.IsTrue(guest.RoundTrip(1));
        rig.StopDaemon();
        Assert.IsTrue(guest.IsCutOff());
        Assert.IsFalse(File.Exists(rig.PathOf("vm0.sock")));
        rig.Host.Kernel.AssertNothingLeft();
    }

    [TestMethod]
    public void What_a_daemon_refuses_is_exit_code_1_and_changes_nothing()
    {
        using CliRig rig = new CliRig();
        StringAssert.Contains(rig.RunFailing(Add(rig, "vm0")), "no daemon is running there", StringComparison.Ordinal);
        rig.WithDaemon();
        rig.RunJson(Add(rig, "vm0"));
        StringAssert.Contains(
            rig.RunFailing(Add(rig, "vm0")), "EEXIST (17): vm0. Cause: there is a port of this name. Cure: choose another name", StringComparison.Ordinal);
        StringAssert.Contains(rig.RunFailing("port", "show", "none"), "there is no port of this name", StringComparison.Ordinal);
        StringAssert.Contains(rig.RunFailing("port", "remove", "none"), "there is no port of this name", StringComparison.Ordinal);
        StringAssert.Contains(rig.RunFailing(Add(rig, "a/b")), "a port's name has", StringComparison.Ordinal);
        StringAssert.Contains(rig.RunFailing("port", "add", "vm1", "--socket-path", rig.PathOf("vm0.sock"), "--page-size", "4KiB"),
            "bind: EADDRINUSE", StringComparison.Ordinal);
        StringAssert.Contains(rig.RunFailing(Add(rig, "vm1", "--pool-size", "18446744073709551615")), "EINVAL", StringComparison.Ordinal);
        StringAssert.Contains(rig.RunFailing(Add(rig, "vm1", "--cores", "8000")), "there is no such processor", StringComparison.Ordinal);
        StringAssert.Contains(rig.RunFailing(Add(rig, "vm1", "--device", "0000:00:1f.0")), "there is no PCI device", StringComparison.Ordinal);
        StringAssert.Contains(rig.RunFailing(Add(rig, "vm1", "--pool", "none")), "there is no pool of this name", StringComparison.Ordinal);
        StringAssert.Contains(rig.RunFailing("port", "add", "vm1", "--fd", "1000000"),
            "EBADF (9): the daemon's socket. Cause: a descriptor to hand over is not open. Cure: ", StringComparison.Ordinal);
        Assert.AreEqual(1, rig.RunJson("port", "list").GetArrayLength());
    }

    private static string Core() => ThreadAffinity.Get()[0].ToString(System.Globalization.CultureInfo.InvariantCulture);

    private static string[] Add(CliRig rig, string name, params string[] rest) =>
        ["port", "add", name, "--socket-path", rig.PathOf("vm0.sock") + (name == "vm0" ? string.Empty : ".other"), "--page-size", "4KiB", .. rest];

    private static string? WaitFor(CliRig rig, string state)
    {
        string? last = null;
        PortGuest.Until(
            () => (last = rig.RunJson("port", "show", "vm0").GetProperty("state").GetString()) == state, $"the port is never {state}");
        return last;
    }
}
