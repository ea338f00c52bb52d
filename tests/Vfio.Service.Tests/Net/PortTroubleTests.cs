using Vfio.Linux;
using Vfio.Testing;
using Vfio.Testing.VhostUser;
using Vfio.VhostUser;
using Vfio.Virtio;

namespace Vfio.Service.Tests;

/// <summary>What front-ends do wrong and what goes wrong around them: it is counted, told, and concerns nobody else.</summary>
[TestClass]
public sealed class PortTroubleTests : PortFixture
{
    [TestMethod]
    public void What_front_ends_did_wrong_is_counted_over_all_sessions()
    {
        Add(Request("vm0"));
        using (var guest = new PortGuest(Path("vm0")))
        {
            guest.BreakTransmitRing();
            PortGuest.Until(() => Show("vm0").FromGuest.Broken == 1, "the broken ring is not counted");
        }

        using (UnixSocket wrong = UnixSocket.TryConnect(Path("vm0"), out _)!)
        {
            wrong.Send(new byte[12]);
            PortGuest.Until(() => Show("vm0").Refused == 1, "the refused message is not counted");
        }

        long losses;
        using (var guest = new IotlbGuest(
            UnixSocket.TryConnect(Path("vm0"), out _)!, VirtioFeatures.Version1, 2 << 20, 64, hasIommu: false, canShrink: true))
        {
            guest.Region.Shrink(0);
            guest.Kick();
            PortGuest.Until(() => Show("vm0") is { Losses: not 0, State: PortState.Listening }, "the loss is not counted");
            losses = Show("vm0").Losses;
        }

        // In one that runs, and goes on.
        using var last = new PortGuest(Path("vm0"));
        Assert.Throws<VhostUserProtocolException>(() => last.Machine.Frontend.Enable(7, true));
        last.BreakTransmitRing();
        PortGuest.Until(() => Show("vm0").FromGuest.Broken == 2, "the ring that broke last is not counted");
        PortInfo shown = Show("vm0");
        Assert.AreEqual(1, shown.Session!.Refused);
        Assert.AreEqual(2, shown.Refused);
        Assert.AreEqual(losses, shown.Losses);
        Assert.IsGreaterThan(shown.Session.Messages + 10, shown.Messages);
        Assert.AreEqual(4, shown.Sessions);
        Assert.AreEqual(2, shown.FromGuest.Breaks["AccessDenied"]);
        Assert.AreEqual(2, shown.Rings[1].Traffic.Broken);
        Assert.AreEqual(0, shown.ToGuest.Broken);
    }

    [TestMethod]
    public void A_buffer_that_may_not_be_written_breaks_its_receive_ring_and_is_told_of()
    {
        Add(Request("vm0"));
        using var guest = new PortGuest(Path("vm0"));
        guest.BreakReceiveRing();
        guest.Send(1);
        PortGuest.Until(() => Show("vm0").ToGuest.Broken == 1, "the ring lives");
        PortInfo shown = Show("vm0");
        Assert.AreEqual(1, shown.ToGuest.Breaks["NotWritable"]);
        Assert.AreEqual(0, shown.ToGuest.Drops.TooLarge);
        Assert.AreEqual(("broken", "NotWritable at 0"), (shown.Rings[0].State, shown.Rings[0].Error));
        PortGuest.Until(
            () => Logged().Any(l => l.Contains("ring 0 stopped: the driver broke it (NotWritable at 0)", StringComparison.Ordinal)), "nobody is told");
        // The other ring is none the worse.
        guest.Send(2);
        Assert.AreEqual("running", Show("vm0").Rings[1].State);
    }

    [TestMethod]
    public void A_transmit_ring_that_breaks_is_told_of_where_only_frames_are_made()
    {
        Add(Request("vm0") with { Forward = ForwardMode.TxOnly });
        using var guest = new PortGuest(Path("vm0"));
        guest.BreakTransmitRing();
        PortGuest.Until(
            () => Logged().Any(l => l.Contains("ring 1 stopped: the driver broke it (AccessDenied", StringComparison.Ordinal)), "nobody is told");
        Assert.AreEqual(1, Show("vm0").FromGuest.Broken);
    }

    [TestMethod]
    public void A_dead_ring_lets_its_poller_sleep_and_another_port_go_on()
    {
        Add(Request("vm0"));
        Add(Request("other"));
        Poller poller = Engine.Net.Ports[0].Pollers.Single();
        Assert.AreSame(poller, Engine.Net.Ports[1].Pollers.Single());
        using var other = new PortGuest(Path("other"));
        Assert.IsTrue(other.RoundTrip(1));
        using var guest = new PortGuest(Path("vm0"));
        Assert.IsTrue(guest.RoundTrip(1));
        guest.BreakTransmitRing();
        PortGuest.Until(() => Show("vm0").Rings[1].State == "broken", "the ring was not stopped");
        // More of it, which nobody looks at any more.
        guest.Post(2);
        PortGuest.Until(() => poller.IsParked, "the poller stays awake for a ring that is dead");
        StringAssert.Contains(Show("vm0").Rings[1].Error, " at ", StringComparison.Ordinal);
        for (byte seed = 2; seed < 100; seed++)
        {
            Assert.IsTrue(other.RoundTrip(seed));
        }

        // Counted behind the frame.
        PortGuest.Until(() => Show("other").ToGuest.Frames == 99, "not all are counted");
        Assert.AreEqual(1, Show("vm0").FromGuest.Frames);
    }

    [TestMethod]
    public void A_fault_of_our_own_ends_the_session_and_not_the_port()
    {
        Add(Request("vm0"));
        LineThatThrows = "session ended: ";
        using (UnixSocket wrong = UnixSocket.TryConnect(Path("vm0"), out _)!)
        {
            wrong.Send(new byte[12]);
            PortGuest.Until(
                () => Logged().Any(l => l.Contains("a fault in this program has ended the session", StringComparison.Ordinal)),
                string.Join('\n', Logged()));
        }

        using var guest = new PortGuest(Path("vm0"));
        Assert.IsTrue(guest.RoundTrip(1));
    }

    [TestMethod]
    public void Where_descriptors_run_out_a_port_waits_for_some_and_says_so()
    {
        Add(Request("vm0"));
        UnixSocket? early = null;
        // Some are put aside already and do not show, as for who waits in accept(2): one more each time, until there is one for this end.
        // A session needs several.
        for (int free = 1; early is null; free++)
        {
            using var limit = new DescriptorLimit(free);
            try
            {
                early = UnixSocket.TryConnect(Path("vm0"), out _);
            }
            catch (LinuxException e) when (e.Errno == Errno.EMFILE)
            {
                continue;
            }

            PortGuest.Until(Starved, "nobody says that descriptors ran out");
        }

        early.Dispose();
        using var guest = new PortGuest(Path("vm0"));
        Assert.IsTrue(guest.RoundTrip(1));

        bool Starved() => Logged().Any(l => l.StartsWith("vm0: cannot meet a front-end yet: ", StringComparison.Ordinal)
            && l.Contains("EMFILE", StringComparison.Ordinal));
    }

    [TestMethod]
    public void A_socket_that_may_not_be_connected_to_is_tried_again()
    {
        using var listener = UnixSocket.Listen(Path("vm0"));
        File.SetUnixFileMode(Path("vm0"), UnixFileMode.None);
        Add(Request("vm0") with { Client = true });
        if (UnixIdentity.EffectiveUser != 0)
        {
            // Root may in any case.
            PortGuest.Until(
                () => Logged().Any(l => l.StartsWith("vm0: cannot meet a front-end yet: connect: EACCES", StringComparison.Ordinal)), "nobody says why");
            Assert.AreEqual(PortState.Connecting, Show("vm0").State);
        }

        File.SetUnixFileMode(Path("vm0"), UnixFileMode.UserRead | UnixFileMode.UserWrite);
        using var guest = new PortGuest(listener.Accept()!);
        Assert.IsTrue(guest.RoundTrip(1));
    }
}
