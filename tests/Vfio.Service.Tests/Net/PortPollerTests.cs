using System.Diagnostics;
using Vfio.Linux;
using Vfio.Testing.VhostUser;
using Vfio.Virtio;

namespace Vfio.Service.Tests;

/// <summary>Pollers with real ports: when they sleep, what wakes them, and what is left when something fails in them.</summary>
[TestClass]
public sealed class PortPollerTests : PortFixture
{
    // It sleeps for ever: a kick that does not wake it is a frame that never comes. Some find it asleep, some on its way there.
    [TestMethod]
    [DataRow(VirtioFeatures.Version1)]
    [DataRow(VirtioFeatures.Version1 | VirtioFeatures.RingEventIdx)]
    [DataRow(VirtioFeatures.Version1 | VirtioFeatures.RingPacked)]
    [DataRow(VirtioFeatures.Version1 | VirtioFeatures.RingPacked | VirtioFeatures.RingEventIdx)]
    public void Every_kick_wakes_a_poller_by_itself(VirtioFeatures features)
    {
        const int Frames = 1000;
        using PinnedPool pool = FramePool();
        using var engine = new NetEngine(Note) { LongestSleep = Timeout.InfiniteTimeSpan };
        NetPort port = engine.Add(new NetPortOptions("vm0") { SocketPath = Path("vm0") }, pool);
        Poller poller = port.Pollers.Single();
        using var guest = new PortGuest(Path("vm0"), features);
        int seed = Environment.TickCount;
        var random = new Random(seed);
        for (int frame = 0; frame < Frames; frame++)
        {
            if (frame % 10 == 0)
            {
                PortGuest.Until(() => poller.IsParked, "the poller does not sleep");
            }

            // It spins for half a millisecond before it asks for kicks and sleeps.
            Thread.SpinWait(random.Next(30_000));
            Assert.IsTrue(guest.RoundTrip(unchecked((byte)frame)), $"seed {seed}");
        }

        Assert.AreEqual(Frames, port.Counters[1].Frames);
        Assert.IsGreaterThanOrEqualTo(Frames / 10, port.Counters[1].Kicks + port.Counters[0].Kicks);
    }

    [TestMethod]
    [DataRow(VirtioFeatures.Version1)]
    [DataRow(VirtioFeatures.Version1 | VirtioFeatures.RingPacked)]
    public void A_poller_serves_its_other_ports_while_one_waits_for_a_translation(VirtioFeatures features)
    {
        int core = ThreadAffinity.Get()[0];
        Add(Request("vm0") with { Cores = [core] });
        Add(Request("vm1") with { Cores = [core] });
        Assert.AreSame(Engine.Net.Ports[0].Pollers.Single(), Engine.Net.Ports[1].Pollers.Single());
        UnixSocket socket = UnixSocket.TryConnect(Path("vm0"), out Errno errno) ?? throw new LinuxException("connect", errno, "vm0");
        using var waiting = new IotlbGuest(socket, features, 2 << 20, 64, hasIommu: true);
        using var other = new PortGuest(Path("vm1"), features);
        // Mapped by nobody, so that no answer comes.
        Assert.IsTrue(waiting.Transmit.TryAdd([new DmaSegment(waiting.At(new Iova(0x10_0000_0000), 0, 100), DeviceAccess.Read)], out _));
        waiting.Transmit.Publish();
        waiting.Kick();
        PortGuest.Until(() => waiting.Frontend.Unanswered != 0, "it was not asked for");
        for (byte seed = 0; seed < 200; seed++)
        {
            Assert.IsTrue(other.RoundTrip(seed));
        }

        Assert.AreEqual(0, waiting.Transmit.Reap(new Completion[1]));
    }

    [TestMethod]
    public void Kicks_that_wake_a_poller_are_counted_on_their_ring()
    {
        Add(Request("vm0"));
        Poller poller = Engine.Net.Ports[0].Pollers.Single();
        using var guest = new PortGuest(Path("vm0"));
        for (byte seed = 0; Show("vm0").FromGuest.Kicks == 0; seed = (byte)(seed == 255 ? 0 : seed + 1))
        {
            PortGuest.Until(() => poller.IsParked, "the poller does not sleep");
            Assert.IsTrue(guest.RoundTrip(seed));
        }

        PortInfo shown = Show("vm0");
        Assert.AreEqual(poller.Kicks, shown.FromGuest.Kicks + shown.ToGuest.Kicks);
    }

    // The whole way of a poller: spinning, asking for kicks, sleeping, waking, calling.
    [TestMethod]
    [DataRow(VirtioFeatures.Version1)]
    [DataRow(VirtioFeatures.Version1 | VirtioFeatures.RingPacked | VirtioFeatures.InOrder | VirtioFeatures.RingEventIdx)]
    public void A_poller_allocates_nothing_in_a_hundred_thousand_polls(VirtioFeatures features)
    {
        const int Least = 100_000;
        using EventFd call = new();
        Add(Request("vm0"));
        Poller poller = Engine.Net.Ports[0].Pollers.Single();
        using var guest = new PortGuest(Path("vm0"), features, shape: ring => ring with { Call = call });
        var meter = new Meter();
        poller.Add(meter);
        Exercise(2000);
        (long polls, long bytes) = meter.Read();
        Exercise(Least);
        (long pollsAfter, long bytesAfter) = meter.Read();
        poller.Remove(meter);
        Assert.IsGreaterThanOrEqualTo(Least, pollsAfter - polls);
        Assert.AreEqual(0, bytesAfter - bytes);

        void Exercise(int frames)
        {
            IotlbGuest machine = guest.Machine;
            DmaSegment[][] sent = [.. Enumerable.Range(0, 32).Select(i => new[] { new DmaSegment(machine.Plain((ulong)i * 256, 76), DeviceAccess.Read) })];
            DmaSegment[][] room = [.. Enumerable.Range(32, 32).Select(i => new[] { new DmaSegment(machine.Plain((ulong)i * 256, 256), DeviceAccess.Write) })];
            var completions = new Completion[64];
            long target = Show("vm0").ToGuest.Frames + frames;
            long polled = meter.Read().Polls + frames;
            long naps = Show("vm0").FromGuest.Kicks + 20;
            int outstanding = 0;
            for (long batch = 0; Show("vm0").ToGuest.Frames < target || meter.Read().Polls < polled || Show("vm0").FromGuest.Kicks < naps; batch++)
            {
                for (int i = 0; i < 32; i++)
                {
                    Assert.IsTrue(machine.Receive.TryAdd(room[i], out _));
                    Assert.IsTrue(machine.Transmit.TryAdd(sent[i], out _));
                }

                machine.Receive.Publish();
                if (batch % 100 == 0)
                {
                    PortGuest.Until(() => poller.IsParked, "the poller does not sleep");
                }

                if (machine.Transmit.Publish())
                {
                    machine.Kick();
                }

                outstanding += 64;
                PortGuest.Until(
                    () => (outstanding -= machine.Receive.Reap(completions) + machine.Transmit.Reap(completions)) == 0, "frames are missing");
            }
        }
    }

    [TestMethod]
    [DataRow(nameof(IPollable.PollOnce))]
    [DataRow(nameof(IPollable.WorkWhileParked))]
    [DataRow(nameof(IPollable.EnableNotifications))]
    [DataRow(nameof(IPollable.DisableNotifications))]
    public void Work_that_throws_is_told_so_and_what_shares_its_poller_goes_on(string member)
    {
        Add(Request("vm0"));
        Poller poller = Engine.Net.Ports[0].Pollers.Single();
        using var guest = new PortGuest(Path("vm0"));
        Assert.IsTrue(guest.RoundTrip(1));
        var faulty = new FaultyWork(member);
        poller.Add(faulty);
        PortGuest.Until(() => faulty.Fault is not null, "nobody is told");
        Assert.AreEqual("provoked", faulty.Fault!.Message);
        Assert.IsTrue(guest.RoundTrip(2));
        PortGuest.Until(() => poller.IsParked, "the poller does not sleep");
        Assert.IsTrue(guest.RoundTrip(3));
        poller.Remove(faulty);
    }

    [TestMethod]
    [DataRow(true)]
    [DataRow(false)]
    public void One_that_has_more_keeps_its_poller_awake_wherever_it_stands(bool isFirst)
    {
        // Longer than anybody waits for what the poller would miss.
        using var poller = new Poller("poller", null, new GracePeriod(), TimeSpan.FromHours(1));
        var restless = new RestlessWork { HasMore = true };
        IPollable[] work = isFirst ? [restless, new Meter()] : [new Meter(), restless];
        Array.ForEach(work, poller.Add);
        PortGuest.Until(() => poller.WorkCount == 2 && restless.Asked >= 1, "it was not asked");
        long before = restless.Asked;
        PortGuest.Until(() => restless.Asked > before + 10, "the poller sleeps");
        restless.HasMore = false;
        PortGuest.Until(() => poller.IsParked, "the poller does not sleep");
    }

    [TestMethod]
    public void A_fault_of_our_own_in_a_poller_ends_the_sessions_that_it_was_at_and_no_other()
    {
        using PinnedPool pool = FramePool(pairs: 4);
        using var engine = new NetEngine(Note);
        NetPort wide = engine.Add(new NetPortOptions("wide") { SocketPath = Path("wide"), QueuePairs = 2 }, pool);
        NetPort narrow = engine.Add(new NetPortOptions("narrow") { SocketPath = Path("narrow") }, pool);
        engine.Add(new NetPortOptions("other") { SocketPath = Path("other") }, pool);
        using var other = new PortGuest(Path("other"));
        for (byte round = 1; round < 4; round++)
        {
            using var first = new PortGuest(Path("wide"));
            using var second = new PortGuest(Path("narrow"));
            Assert.IsTrue(first.RoundTrip(1));
            Assert.IsTrue(second.RoundTrip(2));
            Assert.IsTrue(other.RoundTrip(3));

            // What the engine never does: there is no second pair where those frames would go.
            wide.Target = narrow;
            wide.Pollers.Single().Wake();
            PortGuest.Until(() => Faults("wide") == round && Faults("narrow") == round, string.Join('\n', Logged()));
            wide.Target = wide;
            PortGuest.Until(
                () => wide.State == PortState.Listening && narrow.State == PortState.Listening, "a session goes on that may be half done");
            Assert.IsTrue(first.IsCutOff() && second.IsCutOff());
            Assert.IsTrue(other.RoundTrip(4));
        }

        Assert.AreEqual(0, Faults("other"));

        int Faults(string port) => Logged().Count(l => l.StartsWith(
            $"{port}: a fault in this program has ended the session, please report it: System.IndexOutOfRangeException", StringComparison.Ordinal));
    }

    // It may still use the guest's memory, which therefore stays, and so do the rings; but not for good.
    [TestMethod]
    public void A_port_whose_poller_was_stuck_meets_front_ends_again_when_it_is_back()
    {
        using PinnedPool pool = FramePool();
        using var engine = new NetEngine(Note) { Patience = TimeSpan.FromMilliseconds(200) };
        NetPort port = engine.Add(new NetPortOptions("vm0") { SocketPath = Path("vm0"), Mode = ForwardMode.Io }, pool);
        Poller poller = port.Pollers.Single();
        using var stuck = new StuckWork();
        using (var guest = new PortGuest(Path("vm0")))
        {
            Assert.IsTrue(guest.RoundTrip(1));
            poller.Add(stuck);
            poller.Wake();
            stuck.Entered.Wait();
        }

        PortGuest.Until(() => port.State == PortState.Failed, "nobody noticed that the poller is stuck");
        StringAssert.Contains(port.Failure, "has been in one batch", StringComparison.Ordinal);
        stuck.Leave.Set();
        PortGuest.Until(() => port.State == PortState.Listening, "the port does not come back");
        Assert.IsNull(port.Failure);
        poller.Remove(stuck);
        using (var guest = new PortGuest(Path("vm0")))
        {
            Assert.IsTrue(guest.RoundTrip(2));
        }
    }

    [TestMethod]
    public void A_receive_ring_that_is_disabled_lets_the_poller_of_generated_frames_sleep()
    {
        Add(Request("vm0") with { Forward = ForwardMode.TxOnly });
        Poller poller = Engine.Net.Ports[0].Pollers.Single();
        using var guest = new PortGuest(Path("vm0"));
        guest.Offer();
        Assert.HasCount(64, guest.Receive());
        guest.Machine.Frontend.Enable(0, false);
        guest.Offer();
        PortGuest.Until(() => poller.IsParked, "the poller stays awake for buffers that it may not use");
        guest.Machine.Frontend.Enable(0, true);
        Assert.HasCount(64, guest.Receive());
    }

    [TestMethod]
    public void Buffers_too_small_for_generated_frames_let_the_poller_sleep()
    {
        Add(Request("vm0") with { Forward = ForwardMode.TxOnly, FrameSize = 9000 });
        Poller poller = Engine.Net.Ports[0].Pollers.Single();
        using var guest = new PortGuest(Path("vm0"));
        guest.Offer();
        PortGuest.Until(() => Show("vm0").ToGuest.Drops.TooLarge != 0, "no frame was found too large");
        PortGuest.Until(() => poller.IsParked, "the poller stays awake for buffers that hold none of its frames");
    }

    [TestMethod]
    public void A_poller_is_shared_by_the_ports_that_name_its_processor_and_ends_with_the_last()
    {
        int processor = ThreadAffinity.Get()[0];
        Add(Request("vm0") with { Cores = [processor] });
        Add(Request("vm1") with { Cores = [processor] });
        Add(Request("vm2"));
        Poller shared = Engine.Net.Ports[0].Pollers.Single();
        Assert.AreSame(shared, Engine.Net.Ports[1].Pollers.Single());
        Assert.AreNotSame(shared, Engine.Net.Ports[2].Pollers.Single());
        Remove("vm0");
        using var guest = new PortGuest(Path("vm1"));
        Assert.IsTrue(guest.RoundTrip(1));
        Remove("vm1");
        AssertRefused(Errno.EINVAL, Request("vm3") with { Cores = [8000] }, "there is no such processor");
        Assert.AreEqual("vm2", Engine.Net.Ports.Single().Name);
    }

    /// <summary>Work that looks how much its thread has allocated.</summary>
    private sealed class Meter : IPollable
    {
        private long _polls;
        private long _bytes;

        public bool HasWorkWhileParked => false;

        /// <summary>How often it was polled, and what the thread had allocated by then.</summary>
        public (long Polls, long Bytes) Read() => (Volatile.Read(ref _polls), Volatile.Read(ref _bytes));

        public bool PollOnce()
        {
            Volatile.Write(ref _bytes, GC.GetAllocatedBytesForCurrentThread());
            Volatile.Write(ref _polls, _polls + 1);
            return false;
        }

        public bool WorkWhileParked(long round) => false;

        public bool EnableNotifications() => false;

        public void DisableNotifications()
        {
        }

        public void Fail(Exception fault) => throw new UnreachableException("it throws nothing", fault);
    }

    /// <summary>Work that has more whenever the poller would sleep.</summary>
    private sealed class RestlessWork : IPollable
    {
        private long _asked;
        private bool _hasMore;

        public bool HasMore
        {
            set => Volatile.Write(ref _hasMore, value);
        }

        /// <summary>How often the poller was about to sleep.</summary>
        public long Asked => Volatile.Read(ref _asked);

        public bool HasWorkWhileParked => false;

        public bool PollOnce() => false;

        public bool WorkWhileParked(long round) => false;

        public bool EnableNotifications()
        {
            Volatile.Write(ref _asked, _asked + 1);
            return Volatile.Read(ref _hasMore);
        }

        public void DisableNotifications()
        {
        }

        public void Fail(Exception fault) => throw new UnreachableException("it throws nothing", fault);
    }

    /// <summary>Work that throws in one of its members, the first time.</summary>
    private sealed class FaultyWork(string member) : IPollable
    {
        private Exception? _fault;

        /// <summary>What it was told of.</summary>
        public Exception? Fault => Volatile.Read(ref _fault);

        public bool HasWorkWhileParked => member == nameof(WorkWhileParked) && Fault is null;

        public bool PollOnce() => Throw();

        public bool WorkWhileParked(long round) => Throw();

        public bool EnableNotifications() => Throw();

        public void DisableNotifications() => Throw();

        public void Fail(Exception fault) => Volatile.Write(ref _fault, fault);

        private bool Throw([System.Runtime.CompilerServices.CallerMemberName] string? caller = null) =>
            caller == member && Fault is null ? throw new InvalidOperationException("provoked") : false;
    }

    /// <summary>Work that does not end before it may.</summary>
    private sealed class StuckWork : IPollable, IDisposable
    {
        public ManualResetEventSlim Entered { get; } = new();

        public ManualResetEventSlim Leave { get; } = new();

        public bool HasWorkWhileParked => false;

        public bool PollOnce()
        {
            Entered.Set();
            Leave.Wait();
            return false;
        }

        public bool WorkWhileParked(long round) => false;

        public bool EnableNotifications() => false;

        public void DisableNotifications()
        {
        }

        public void Fail(Exception fault) => throw new UnreachableException("it throws nothing", fault);

        public void Dispose()
        {
            Leave.Set();
            Entered.Dispose();
        }
    }
}
