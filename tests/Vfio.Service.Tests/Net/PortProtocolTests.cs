using System.Buffers.Binary;
using Vfio.Linux;
using Vfio.Testing.VhostUser;
using Vfio.VhostUser;
using Vfio.Virtio;

namespace Vfio.Service.Tests;

/// <summary>What a front-end agrees on beside its rings, with a real port behind it.</summary>
[TestClass]
public sealed unsafe class PortProtocolTests : IDisposable
{
    private const VirtioFeatures Split = VirtioFeatures.Version1;
    private const VirtioFeatures Packed = VirtioFeatures.Version1 | VirtioFeatures.RingPacked;

    // A bit for each page up to the end of the guest's memory.
    private const ulong LogBytes = 64 << 10;

    private readonly string _directory = Directory.CreateTempSubdirectory("vfiopin-protocol-").FullName;
    private readonly PinnedPool _pool;
    private readonly NetEngine _engine;
    private readonly NetPort _port;

    public PortProtocolTests()
    {
        _pool = PinnedPool.Create(new PinnedPoolOptions
        {
            Name = "frames",
            Size = FrameBatch.Capacity * FrameBatch.BufferSize,
            Backings = [MemoryBacking.Pages4KiB],
            BufferSize = FrameBatch.BufferSize,
        });
        // For ever: a poller that sleeps is woken by what a test sends, or not at all.
        _engine = new NetEngine(static _ => { }) { LongestSleep = Timeout.InfiniteTimeSpan };
        _port = _engine.Add(new NetPortOptions("vm0") { SocketPath = SocketPath }, _pool);
    }

    private string SocketPath => Path.Combine(_directory, "vm0");

    public void Dispose()
    {
        _engine.Dispose();
        _pool.Dispose();
        Directory.Delete(_directory, recursive: true);
    }

    [TestMethod]
    [DataRow(Split)]
    [DataRow(Packed)]
    public void Kicks_calls_and_errors_go_in_band(VirtioFeatures features)
    {
        using var guest = new PortGuest(
            SocketPath, features, ProtocolFeatures.InbandNotifications, static ring => ring with { Kick = null });
        Assert.IsTrue(guest.Machine.Frontend.ProtocolFeatures.HasFlag(ProtocolFeatures.InbandNotifications));
        for (byte seed = 0; seed < 20; seed++)
        {
            PortGuest.Until(() => _port.Pollers[0].IsParked, "the poller does not sleep");
            Assert.IsTrue(guest.RoundTrip(seed));
        }

        PortGuest.Until(() => Front(guest).Calls(0) == _port.Counters[0].Calls, "calls of the receive ring are missing");
        PortGuest.Until(() => Front(guest).Calls(1) == _port.Counters[1].Calls, "calls of the transmit ring are missing");
        Assert.IsGreaterThan(0, Front(guest).Calls(0));
        Assert.IsGreaterThan(0, Front(guest).Calls(1));
        // Nothing else wakes the poller; what is sent while it is awake needs no kick.
        Assert.IsGreaterThan(0, _port.Counters[1].Kicks);
        Assert.AreEqual(0, Front(guest).Errors(1));
        guest.BreakTransmitRing();
        PortGuest.Until(() => Front(guest).Errors(1) == 1, "the front-end does not learn that its ring is broken");
        Assert.AreEqual(0, Front(guest).Errors(0));
        Assert.IsNull(guest.Machine.ServerFailure);
    }

    [TestMethod]
    [DataRow(Split)]
    [DataRow(Packed)]
    public void Calls_and_errors_go_to_the_eventfds_of_their_ring(VirtioFeatures features)
    {
        using EventFd firstCall = new(), secondCall = new(), firstError = new(), secondError = new();
        using var guest = new PortGuest(SocketPath, features, shape: ring => ring.Index == 0
            ? ring with { Call = firstCall, Error = firstError }
            : ring with { Call = secondCall, Error = secondError });
        // A call may come behind what it is for.
        Assert.IsTrue(guest.RoundTrip(1));
        PortGuest.Until(() => secondCall.Take() != 0, "no call for what was sent");
        PortGuest.Until(() => firstCall.Take() != 0, "no call for what was received");
        guest.Offer();
        guest.Send(2);
        PortGuest.Until(() => secondCall.Take() != 0, "no second call for what was sent");
        PortGuest.Until(() => firstCall.Take() != 0, "no second call for what was received");
        guest.Receive();
        Assert.AreEqual(0ul, firstError.Take() + secondError.Take());
        guest.BreakTransmitRing();
        PortGuest.Until(() => secondError.Take() == 1, "the front-end does not learn that its transmit ring is broken");
        Assert.AreEqual(0ul, firstError.Take());
    }

    [TestMethod]
    public void Configuration_space_tells_the_link_the_queues_and_the_mtu_and_a_new_session_starts_anew()
    {
        const ProtocolFeatures More = ProtocolFeatures.Config | ProtocolFeatures.NetMtu;
        using (var guest = new PortGuest(SocketPath, more: More))
        {
            Assert.AreEqual(1500, Mtu(guest));
            Front(guest).SetMtu(9000);
            Assert.AreEqual(9000, Mtu(guest));
            Assert.Throws<VhostUserProtocolException>(() => Front(guest).SetMtu(67));
            Assert.Throws<VhostUserProtocolException>(() => Front(guest).SetMtu(65536));
            Assert.AreEqual(9000, Mtu(guest));

            byte[] whole = new byte[12];
            Assert.IsTrue(Front(guest).TryReadConfig(0, whole));
            // virtio 1.3, 5.1.4 "Device configuration layout": mac, status: link up, max_virtqueue_pairs, mtu.
            CollectionAssert.AreEqual(new byte[] { 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 9000 & 0xFF, 9000 >> 8 }, whole);
            // Where this device has nothing, but a later one may.
            byte[] beyond = [.. Enumerable.Repeat((byte)0xFF, 16)];
            Assert.IsTrue(Front(guest).TryReadConfig(240, beyond));
            Assert.AreEqual(-1, beyond.AsSpan().IndexOfAnyExcept((byte)0));
            Assert.IsFalse(Front(guest).TryReadConfig(241, beyond));
            Assert.IsTrue(guest.RoundTrip(1));
        }

        using var next = new PortGuest(SocketPath, more: More);
        Assert.AreEqual(1500, Mtu(next));

        static int Mtu(PortGuest guest)
        {
            Span<byte> mtu = stackalloc byte[2];
            Assert.IsTrue(Front(guest).TryReadConfig(10, mtu));
            return BinaryPrimitives.ReadUInt16LittleEndian(mtu);
        }
    }

    [TestMethod]
    public void No_frame_beyond_the_mtu_reaches_a_driver_that_was_told_it()
    {
        const VirtioFeatures Told = Split | (VirtioFeatures)NetFeatures.Mtu;
        using (var guest = new PortGuest(SocketPath, Told, ProtocolFeatures.NetMtu))
        {
            int frame = PortGuest.FrameOf(1).Length;
            Front(guest).SetMtu(frame - Frame.MinLength);
            Assert.IsTrue(guest.RoundTrip(1));
            // Under the running ring.
            Front(guest).SetMtu(frame - Frame.MinLength - 1);
            guest.Offer();
            guest.Send(2);
            PortGuest.Until(() => _port.Counters[0].DroppedMtu == 1, "the frame was not dropped");
            // Under one that starts with it.
            Front(guest).Enable(0, false);
            Front(guest).Enable(0, true);
            guest.Send(2);
            PortGuest.Until(() => _port.Counters[0].DroppedMtu == 2, "the frame was not dropped after a restart");
            Front(guest).SetMtu(frame - Frame.MinLength);
            // Its buffer waits for the next one.
            guest.Send(3);
            CollectionAssert.AreEqual(PortGuest.FrameOf(3), guest.Receive());
        }

        using var other = new PortGuest(SocketPath, Split, ProtocolFeatures.NetMtu);
        Front(other).SetMtu(68);
        Assert.IsTrue(other.RoundTrip(4));
        Assert.AreEqual(2, _port.Counters[0].DroppedMtu);
    }

    // In the order in which QEMU does it: the memory of the log, the feature, each ring again with the flag.
    [TestMethod]
    [DataRow(Split, true)]
    [DataRow(Split, false)]
    [DataRow(Packed, true)]
    [DataRow(Packed, false)]
    public void A_migration_is_told_exactly_the_pages_that_are_written_and_not_longer_than_it_lasts(VirtioFeatures features, bool logsRings)
    {
        using FileDescriptor file = MemoryFile.Create("log", LogBytes);
        using var log = MappedMemory.Map(file, 0, LogBytes, writable: true);
        using var signal = new EventFd();
        using var guest = new IotlbGuest(
            UnixSocket.TryConnect(SocketPath, out _)!, features | VhostFeatures.LogAll, 2 << 20, 64, hasIommu: false,
            more: ProtocolFeatures.LogShmfd);
        guest.Frontend.SetFeatures(guest.Frontend.Features & ~VhostFeatures.LogAll);
        guest.Frontend.SetLog(file, LogBytes);
        guest.Frontend.SetLogSignal(signal);
        Exchange(guest);
        Assert.IsEmpty(Take(log));
        Assert.AreEqual(0ul, signal.Take());

        guest.Frontend.SetFeatures(guest.Frontend.Features | VhostFeatures.LogAll);
        SayWhere(guest, logsRings);
        var expected = new HashSet<ulong>();
        for (int round = 0; round < 3; round++)
        {
            expected.Clear();
            foreach ((ulong offset, ulong length) in Exchange(guest))
            {
                Add(expected, offset, length);
            }

            // The receive ring only is said to be logged.
            Add(expected, Offset(guest, guest.Described[0].Device), logsRings ? RingAddresses.DeviceBytes(64, features) : 0);
            if (logsRings && features.HasFlag(VirtioFeatures.RingPacked))
            {
                Add(expected, Offset(guest, guest.Described[0].Descriptors), RingAddresses.DescriptorBytes(64));
            }

            PortGuest.Until(() => signal.Take() != 0, "nobody tells that the log was written");
            HashSet<ulong> taken = Take(log);
            Assert.IsTrue(expected.SetEquals(taken), $"{string.Join(' ', expected.Order())} / {string.Join(' ', taken.Order())}");
        }

        guest.Frontend.SetFeatures(guest.Frontend.Features & ~VhostFeatures.LogAll);
        SayWhere(guest, logsRings: false);
        Take(log);
        signal.Take();
        Exchange(guest);
        Assert.IsEmpty(Take(log));
        Assert.AreEqual(0ul, signal.Take());
    }

    [TestMethod]
    public void The_log_is_told_of_once_until_it_is_taken()
    {
        using FileDescriptor file = MemoryFile.Create("log", LogBytes);
        using var log = MappedMemory.Map(file, 0, LogBytes, writable: true);
        using var signal = new EventFd();
        using var guest = new PortGuest(SocketPath, Split | VhostFeatures.LogAll, ProtocolFeatures.LogShmfd);
        Front(guest).SetLog(file, LogBytes);
        Front(guest).SetLogSignal(signal);
        for (int round = 0; round < 3; round++)
        {
            Assert.IsTrue(guest.RoundTrip(1));
            PortGuest.Until(() => signal.Take() == 1, "nobody tells that the log was written");
            Assert.IsTrue(guest.RoundTrip(2));
            // That frame's call is behind it.
            PortGuest.Until(() => _port.Pollers[0].IsParked, "the poller does not sleep");
            Assert.AreEqual(0ul, signal.Take());
            Assert.HasCount(1, Take(log));
        }
    }

    private static VhostUserFrontend Front(PortGuest guest) => guest.Machine.Frontend;

    private static void SayWhere(IotlbGuest guest, bool logsRings)
    {
        foreach (FrontendRing ring in guest.Described)
        {
            guest.Frontend.SetAddresses(ring.Index == 0 && logsRings
                ? ring with { Log = new GuestPhysicalAddress(IotlbGuest.GuestBase + Offset(guest, ring.Device)) } : ring);
        }
    }

    // Sends the guest frames of its own, and says what was written: from the start of its memory.
    private static List<(ulong Offset, ulong Length)> Exchange(IotlbGuest guest)
    {
        const int FrameBytes = 5000;
        var written = new List<(ulong, ulong)>();
        var completions = new Completion[1];
        DmaSegment[] sent = [new DmaSegment(guest.Plain(1 << 20, NetHeader.Bytes + FrameBytes), DeviceAccess.Read)];
        // Neighbours in pages that are not, one that starts in the middle of its page, and room for more than the frame.
        foreach ((ulong offset, int room) in new[] { (0ul, 8192), (0x5F00ul, 8192), (0x10_000ul, 65536), (0x40_FFFul, 20000) })
        {
            Assert.IsTrue(guest.Receive.TryAdd([new DmaSegment(guest.Plain(offset, room), DeviceAccess.Write)], out _));
            guest.Receive.Publish();
            Assert.IsTrue(guest.Transmit.TryAdd(sent, out _));
            guest.Transmit.Publish();
            guest.Kick();
            PortGuest.Until(() => guest.Receive.Reap(completions) == 1, "no frame came");
            Assert.AreEqual((uint)(NetHeader.Bytes + FrameBytes), completions[0].Written);
            PortGuest.Until(() => guest.Transmit.Reap(completions) == 1, "the frame was not given back");
            written.Add((IotlbGuest.RingBytes + offset, NetHeader.Bytes + FrameBytes));
        }

        return written;
    }

    private static ulong Offset(IotlbGuest guest, FrontendAddress address) => address.Value - guest.Region.Frontend.Value;

    private static void Add(HashSet<ulong> pages, ulong offset, ulong length)
    {
        for (ulong page = offset / DirtyLog.PageSize; length != 0 && page <= (offset + length - 1) / DirtyLog.PageSize; page++)
        {
            pages.Add((IotlbGuest.GuestBase / DirtyLog.PageSize) + page);
        }
    }

    // What a front-end does: it takes the bits and clears them.
    private static HashSet<ulong> Take(MappedMemory log)
    {
        var pages = new HashSet<ulong>();
        for (ulong word = 0; word < LogBytes / sizeof(ulong); word++)
        {
            ulong bits = Interlocked.Exchange(ref ((ulong*)log.Address)[word], 0);
            for (int bit = 0; bits != 0 && bit < 64; bit++)
            {
                if ((bits & (1ul << bit)) != 0)
                {
                    pages.Add((word * 64) + (ulong)bit);
                }
            }
        }

        return pages;
    }
}
