using System.Diagnostics;
using Vfio.Linux;
using Vfio.Testing.VhostUser;
using Vfio.Virtio;

namespace Vfio.Service.Tests;

[TestClass]
public sealed class PortTests : PortFixture
{
    [TestMethod]
    [DataRow(VirtioFeatures.Version1)]
    [DataRow(VirtioFeatures.Version1 | VirtioFeatures.RingPacked)]
    public void A_port_serves_a_front_end_and_tells_what_it_did(VirtioFeatures features)
    {
        PortInfo added = Add(Request("vm0"));
        Assert.AreEqual(PortState.Listening, added.State);
        Assert.HasCount(2, added.Rings);
        using var guest = new PortGuest(Path("vm0"), features);
        Assert.IsTrue(guest.RoundTrip(1));
        Assert.IsTrue(guest.RoundTrip(2));

        PortInfo shown = Show("vm0");
        Assert.AreEqual(PortState.Connected, shown.State);
        Assert.AreEqual(1, shown.Sessions);
        Assert.AreEqual(2, shown.FromGuest.Frames);
        Assert.AreEqual(2 * PortGuest.FrameOf(1).Length, shown.FromGuest.Bytes);
        Assert.AreEqual(2, shown.ToGuest.Frames);
        Assert.AreEqual(0, shown.FromGuest.Dropped + shown.ToGuest.Dropped);
        Assert.IsGreaterThan(5, shown.Session!.Messages);
        Assert.AreEqual(0, shown.Session.Refused);
        Assert.IsNull(shown.Session.Iotlb);
        Assert.AreEqual(features.HasFlag(VirtioFeatures.RingPacked), shown.Session.FeatureNames.Contains("RingPacked", StringComparison.Ordinal));
        Assert.IsTrue(shown.Rings.All(r => r is { State: "running", Size: 64 }));
    }

    // A ring that stops gives everything back that it has used: where it goes on, nobody looks at what lies before.
    [TestMethod]
    [DataRow(VirtioFeatures.Version1)]
    [DataRow(VirtioFeatures.Version1 | VirtioFeatures.RingPacked)]
    public void A_busy_ring_that_is_stopped_and_started_again_and_again_loses_nothing(VirtioFeatures features)
    {
        const int Rounds = 200;
        Add(Request("vm0") with { Forward = ForwardMode.RxOnly });
        using var guest = new IotlbGuest(
            UnixSocket.TryConnect(Path("vm0"), out _)!, features, 2 << 20, ringSize: 256, hasIommu: false);
        bool stop = false;
        string? failure = null;
        var traffic = new Thread(() =>
        {
            var completions = new Completion[256];
            DmaSegment[] frame = [new DmaSegment(guest.Plain(0, NetHeader.Bytes + 64), DeviceAccess.Read)];
            var stuck = Stopwatch.StartNew();
            while (!Volatile.Read(ref stop) || guest.Transmit.Outstanding != 0)
            {
                if (guest.Transmit.Reap(completions) != 0)
                {
                    stuck.Restart();
                }

                while (!Volatile.Read(ref stop) && guest.Transmit.TryAdd(frame, out _))
                {
                }

                if (guest.Transmit.Publish())
                {
                    guest.Kick();
                }

                if (stuck.Elapsed.TotalSeconds > 20 || guest.Transmit.Error != RingError.None)
                {
                    failure = $"{guest.Transmit.Outstanding} frames never came back, {guest.Transmit.Error}";
                    return;
                }
            }
        });
        traffic.Start();
        for (int round = 0; round < Rounds && traffic.IsAlive; round++)
        {
            // Whoever changes the memory has every ring stopped and started again.
            guest.Frontend.SetMemory(guest.Region);
        }

        Volatile.Write(ref stop, true);
        traffic.Join();
        Assert.IsNull(failure);
        Assert.IsGreaterThan(1000, Show("vm0").FromGuest.Frames);
    }

    [TestMethod]
    [DataRow(VirtioFeatures.Version1)]
    [DataRow(VirtioFeatures.Version1 | VirtioFeatures.RingPacked)]
    public void A_ring_behind_frames_that_find_no_buffer_holds_no_used_buffer_back(VirtioFeatures features)
    {
        const int Batch = 32;
        bool inTime = false;
        // A frame that finds none for a while is dropped: the test may have been kept from looking for that long.
        for (int attempt = 0; attempt < 10 && !inTime; attempt++)
        {
            Add(Request("vm0"));
            using var guest = new IotlbGuest(
                UnixSocket.TryConnect(Path("vm0"), out _)!, features, 2 << 20, ringSize: 256, hasIommu: false);
            DmaSegment[] frame = [new DmaSegment(guest.Plain(0, NetHeader.Bytes + 64), DeviceAccess.Read)];
            for (int i = 0; i < 2 * Batch; i++)
            {
                Assert.IsTrue(guest.Transmit.TryAdd(frame, out _));
            }

            _ = guest.Transmit.Publish();
            guest.Kick();
            int reaped = 0;
            PortGuest.Until(() => (reaped += guest.Transmit.Reap(new Completion[256])) != 0, "no buffer came back");
            inTime = Show("vm0").ToGuest.Dropped == 0;
            Assert.IsTrue(!inTime || reaped == Batch, $"{reaped} came back");
            Remove("vm0");
        }

        Assert.IsTrue(inTime, "buffers came back only when frames were dropped");
    }

    [TestMethod]
    public void Ports_come_and_go_while_another_runs()
    {
        Add(Request("steady"));
        using var guest = new PortGuest(Path("steady"));
        int failed = 0;
        bool stop = false;
        var traffic = new Thread(() =>
        {
            for (byte seed = 0; !Volatile.Read(ref stop); seed = (byte)(seed == 255 ? 0 : seed + 1))
            {
                failed += guest.RoundTrip(seed) ? 0 : 1;
            }
        });
        traffic.Start();
        try
        {
            for (byte round = 0; round < 20; round++)
            {
                Add(Request("passing"));
                using var other = new PortGuest(Path("passing"));
                Assert.IsTrue(other.RoundTrip(round));
                Remove("passing");
            }
        }
        finally
        {
            Volatile.Write(ref stop, true);
            traffic.Join();
        }

        Assert.AreEqual(0, failed);
        PortInfo steady = Show("steady");
        Assert.AreEqual(steady.FromGuest.Frames, steady.ToGuest.Frames);
        Assert.AreEqual(1, steady.Sessions);
    }

    [TestMethod]
    public void Connected_ports_feed_each_other_and_the_one_left_drops_until_its_peer_is_back()
    {
        Add(Request("vm0"));
        Assert.AreEqual("vm0", Add(Request("vm1") with { Peer = "vm0" }).Peer);
        Assert.AreEqual("vm1", Show("vm0").Peer);
        using var first = new PortGuest(Path("vm0"));
        using (var second = new PortGuest(Path("vm1")))
        {
            Across(first, second, 1);
            Across(second, first, 2);
            PortInfo last = Remove("vm1");
            Assert.AreEqual(PortState.Ended, last.State);
            Assert.AreEqual(1, last.FromGuest.Frames);
        }

        Assert.IsFalse(Show("vm0").Delivers);
        first.Offer();
        first.Send(3);
        PortGuest.Until(() => Show("vm0").FromGuest.Drops.NoBuffer == 1, "the frame was not dropped");

        // Names nobody: the one that is left waits for it.
        Assert.AreEqual("vm0", Add(Request("vm1")).Peer);
        using var third = new PortGuest(Path("vm1"));
        third.Send(4);
        CollectionAssert.AreEqual(PortGuest.FrameOf(4), first.Receive());
    }

    [TestMethod]
    public void A_port_may_name_a_peer_that_is_not_there_yet()
    {
        PortInfo added = Add(Request("vm0") with { Peer = "vm1" });
        Assert.IsFalse(added.Delivers);
        Add(Request("vm1") with { Peer = "vm0" });
        Assert.IsTrue(Show("vm0").Delivers);
        AssertRefused(Errno.EINVAL, Request("vm2") with { Peer = "vm0" }, "port vm0 is connected with vm1");
        AssertRefused(Errno.EINVAL, Request("vm2") with { Peer = "vm2" }, "cannot be its own peer");
        AssertRefused(Errno.EINVAL, Request("vm2") with { Peer = "vm3", Forward = ForwardMode.TxOnly }, "only ports that forward");
        Remove("vm1");
        AssertRefused(Errno.EINVAL, Request("vm2") with { Peer = "vm0", Queues = 2 }, "port vm0 has 1 pairs of queues, and this one 2");
        AssertRefused(Errno.EINVAL, Request("vm1") with { Forward = ForwardMode.RxOnly }, "only ports that forward");
        Add(Request("vm2") with { Peer = "vm0" });
        Assert.AreEqual("vm2", Show("vm0").Peer);
    }

    [TestMethod]
    public void A_front_end_that_comes_back_is_served_again_by_a_port_that_listens_and_by_one_that_connects()
    {
        Add(Request("listens"));
        for (byte seed = 1; seed < 4; seed++)
        {
            using var guest = new PortGuest(Path("listens"));
            Assert.IsTrue(guest.RoundTrip(seed));
        }

        PortGuest.Until(() => Show("listens").State == PortState.Listening, "the last session did not end");
        Assert.AreEqual(3, Show("listens").Sessions);
        Assert.IsTrue(Show("listens").Rings.All(r => r.State == "stopped"));

        Assert.AreEqual(PortState.Connecting, Add(Request("connects") with { Client = true }).State);
        for (byte seed = 1; seed < 4; seed++)
        {
            using UnixSocket listener = UnixSocket.Listen(Path("connects"));
            using var guest = new PortGuest(listener.Accept()!);
            Assert.IsTrue(guest.RoundTrip(seed));
        }

        // It may have met a listener that was about to go.
        Assert.IsGreaterThanOrEqualTo(3, Show("connects").Sessions);
    }

    [TestMethod]
    public void A_removed_port_leaves_neither_socket_nor_memory_nor_session()
    {
        int before = MappedFrames();
        Add(Request("vm0"));
        Assert.AreEqual(before + 1, MappedFrames());
        using var guest = new PortGuest(Path("vm0"));
        Assert.IsTrue(guest.RoundTrip(1));
        PortInfo last = Remove("vm0");
        Assert.AreEqual(1, last.FromGuest.Frames);
        Assert.AreEqual(before, MappedFrames());
        Assert.IsFalse(File.Exists(Path("vm0")));
        Assert.IsTrue(guest.IsCutOff());
        Assert.AreEqual(Errno.ENOENT, Assert.Throws<LinuxException>(() => Show("vm0")).Errno);
        Assert.AreEqual(Errno.ENOENT, Assert.Throws<LinuxException>(() => Remove("vm0")).Errno);
        Add(Request("vm0"));
    }

    [TestMethod]
    public void A_connected_socket_is_served_once()
    {
        (UnixSocket ours, UnixSocket theirs) = UnixSocket.Pair();
        var context = new OperationContext { Descriptors = [theirs.Descriptor] };
        PortOperations.Add.Run(Engine, new PortRequest("fd") { PageSizes = ["4KiB"] }, context);
        theirs.Dispose();
        using (var guest = new PortGuest(ours))
        {
            Assert.IsTrue(guest.RoundTrip(1));
        }

        PortGuest.Until(() => Show("fd").State == PortState.Ended, "the port did not see the end");
        Assert.IsTrue(Engine.Net.Ended.Wait(TimeSpan.FromSeconds(60)));

        using var file = MemoryFile.Create("no-socket", 4096);
        context = new OperationContext { Descriptors = [file] };
        LinuxException e = Assert.Throws<LinuxException>(
            () => PortOperations.Add.Run(Engine, new PortRequest("file") { PageSizes = ["4KiB"] }, context));
        Assert.AreEqual(Errno.ENOTSOCK, e.Errno);
    }

    [TestMethod]
    public void What_cannot_be_a_port_is_refused_and_leaves_nothing()
    {
        int before = MappedFrames();
        AssertRefused(Errno.EINVAL, Request("a/b"), "a port's name has");
        AssertRefused(Errno.EINVAL, Request("vm0") with { SocketPath = null }, "either the path of a socket or a connected one");
        AssertRefused(Errno.EINVAL, Request("vm0") with { SocketPath = "vm0.sock" }, "starts at the root");
        AssertRefused(Errno.EINVAL, Request("vm0") with { SocketPath = "/" + new string('x', 107) }, "at most 107 bytes");
        AssertRefused(Errno.EINVAL, Request("vm0") with { Queues = 129 }, "1 to 128 pairs");
        AssertRefused(Errno.EINVAL, Request("vm0") with { FrameSize = 13 }, "a frame has 14 to");
        AssertRefused(Errno.EINVAL, Request("vm0") with { IotlbSize = 1023 }, "room for 1024 to 1048576");
        AssertRefused(Errno.EINVAL, Request("vm0") with { Cores = [-1] }, "processors have numbers");
        AssertRefused(Errno.EINVAL, Request("vm0") with { PoolSize = 4096 }, "4 MiB are needed for so many queues");
        AssertRefused(Errno.EINVAL, Request("vm0") with { PageSizes = ["3MiB"] }, "there are no such pages");
        AssertRefused(Errno.EINVAL, Request("vm0") with { Pool = "demo", PoolSize = 1 << 30 }, "either a pool is named");
        AssertRefused(Errno.ENOENT, Request("vm0") with { Pool = "demo" }, "there is no pool of this name");
        AssertRefused(Errno.ENOENT, Request("vm0") with { SocketPath = Path("no/such") }, "the directory is not there");
        File.WriteAllText(Path("file"), string.Empty);
        AssertRefused(Errno.EADDRINUSE, Request("file"), "the path is not a socket");
        Assert.AreEqual(before, MappedFrames());
        Add(Request("vm0"));
        AssertRefused(Errno.EEXIST, Request("vm0") with { SocketPath = Path("other") }, "there is a port of this name");
    }

    // Memory files of ports' own pools in this process.
    private static int MappedFrames() => File.ReadLines("/proc/self/maps").Count(l => l.Contains("vfiopin-port-", StringComparison.Ordinal));

    private static void Across(PortGuest from, PortGuest to, byte seed)
    {
        to.Offer();
        from.Send(seed);
        CollectionAssert.AreEqual(PortGuest.FrameOf(seed), to.Receive());
    }
}
