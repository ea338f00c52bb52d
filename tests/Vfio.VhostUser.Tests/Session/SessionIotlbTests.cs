using System.Runtime.InteropServices;
using Vfio.Linux;
using Vfio.VhostUser.Tests.Net;
using Vfio.Virtio;

namespace Vfio.VhostUser.Tests.Session;

[TestClass]
public sealed class SessionIotlbTests
{
    private const VirtioFeatures Packed = VirtioFeatures.Version1 | VirtioFeatures.RingPacked | VirtioFeatures.AccessPlatform;

    private static readonly Iova Readable = new(0x5000_0000);

    [TestMethod]
    public void An_access_failure_that_there_was_no_room_for_is_reported_when_there_is_and_once()
    {
        using Peer peer = Connect();
        (UnixSocket ours, UnixSocket theirs) = UnixSocket.Pair();
        using var channel = new MessageChannel(ours);
        using (theirs)
        {
            peer.Send(FrontendRequest.SetBackendReqFd, [], theirs.Descriptor);
            Assert.AreEqual(0ul, peer.ReadAnswer());
            peer.SetUpRing(0);
            IotlbView view = peer.Device.Running[0].Iotlb!;
            int fill = 0;
            while (theirs.TrySend([0]) == Errno.None)
            {
                fill++;
            }

            Refuse(view);
            for (var drained = new byte[4096]; fill != 0;)
            {
                fill -= ours.Receive(drained.AsSpan(0, Math.Min(drained.Length, fill)), new ReceivedDescriptors());
            }

            // The ring is broken, and no poller comes back for it.
            Assert.AreEqual((IotlbMessageType.AccessFail, Readable), Next(channel));
            Refuse(view);
            Miss(view, new Iova(0x6000_0000));
            Assert.AreEqual((IotlbMessageType.Miss, new Iova(0x6000_0000)), Next(channel));
        }
    }

    [TestMethod]
    public void A_miss_that_is_not_answered_is_forgotten_in_time()
    {
        using Peer peer = Connect();
        (UnixSocket ours, UnixSocket theirs) = UnixSocket.Pair();
        using var channel = new MessageChannel(ours);
        using (theirs)
        {
            peer.Send(FrontendRequest.SetBackendReqFd, [], theirs.Descriptor);
        }

        Assert.AreEqual(0ul, peer.ReadAnswer());
        peer.SetUpRing(0);
        Miss(peer.Device.Running[0].Iotlb!, new Iova(0x6000_0000));
        Assert.AreEqual((IotlbMessageType.Miss, new Iova(0x6000_0000)), Next(channel));
        Assert.AreEqual(1, peer.Session.Iotlb.Pending);
        // The session looks by itself, with nothing to wake it.
        Assert.IsTrue(SpinWait.SpinUntil(() => peer.Session.Iotlb.Pending == 0, TimeSpan.FromSeconds(60)));
        Assert.AreEqual(1, peer.Session.Iotlb.TimedOut);
    }

    // Views of a ring's pages are bounded: the second ring gets one only if the first one's is gone.
    [TestMethod]
    [DataRow(FrontendRequest.GetVringBase)]
    [DataRow(FrontendRequest.ResetDevice)]
    public void A_ring_that_was_stopped_or_reset_leaves_its_view_and_the_table_empty(object request)
    {
        using Peer peer = new Peer(MappingLimits.Peer with { Mappings = 8 }).Negotiate(Packed).ShareMemory();
        StartScattered(peer, 0);
        Assert.IsFalse(peer.Device.Running[0].Addresses.IsScattered, string.Join("; ", peer.Log));
        Assert.AreNotEqual(0, peer.Session.Iotlb.Entries);
        if ((FrontendRequest)request == FrontendRequest.GetVringBase)
        {
            peer.Ask<VringState>(FrontendRequest.GetVringBase, new VringState { Index = 0 });
        }
        else
        {
            peer.Send(FrontendRequest.ResetDevice, []);
            Assert.AreEqual(0ul, peer.ReadAnswer());
            peer.Accepted(FrontendRequest.SetFeatures, (ulong)(Packed | VhostFeatures.ProtocolFeatures));
        }

        Assert.IsEmpty(peer.Device.Running);
        Assert.AreEqual(0, peer.Session.Iotlb.Entries, "the next driver's buffers lie elsewhere");
        StartScattered(peer, 1);
        Assert.IsFalse(peer.Device.Running[1].Addresses.IsScattered, string.Join("; ", peer.Log));
    }

    [TestMethod]
    public void A_ring_that_was_stopped_holds_no_translations_any_more()
    {
        using Peer peer = new Peer().Negotiate(Packed).ShareMemory();
        StartScattered(peer, 0);
        StartScattered(peer, 1);
        peer.Ask<VringState>(FrontendRequest.GetVringBase, new VringState { Index = 0 });
        Flood(peer);
        using var kick = new EventFd();
        peer.Accepted(FrontendRequest.SetVringKick, 0ul, kick.Descriptor);
        Assert.IsFalse(peer.Device.Running.ContainsKey(0), "its translations were kept");
        // The other one's were, as it runs all the time.
        peer.Accepted(FrontendRequest.SetVringEnable, new VringState { Index = 1, Number = 0 });
        peer.Accepted(FrontendRequest.SetVringEnable, new VringState { Index = 1, Number = 1 });
        Assert.IsTrue(peer.Device.Running.ContainsKey(1));
        MapScattered(peer, 0);
        Assert.IsTrue(peer.Device.Running.ContainsKey(0));
    }

    [TestMethod]
    [DataRow(VirtioFeatures.Version1)]
    [DataRow(Packed)]
    public void What_is_written_by_way_of_the_IOTLB_is_logged_by_guest_physical_address_while_that_is_switched_on(VirtioFeatures features)
    {
        const ulong RingIova = 0x8000_0000;
        const ulong BufferIova = 0x9000_0000;
        const ulong BufferPlace = 0x40000;
        features |= VirtioFeatures.Version1 | VirtioFeatures.AccessPlatform | (VirtioFeatures)NetFeatures.MrgRxbuf;
        using var frames = new Guest();
        using Peer peer = new Peer().Negotiate(features | VhostFeatures.LogAll).ShareMemory();
        using var memory = MappedMemory.Map(peer.Memory, 0, Peer.MemoryLength, writable: true);
        using FileDescriptor file = MemoryFile.Create("log", 1 << 18);
        using var log = MappedMemory.Map(file, 0, 1 << 18, writable: true);
        peer.SetLog(1 << 18, file);
        var host = new HostAddress((ulong)memory.Address);
        var driver = DriverQueue.Create(
            16, features, new PinnedBuffer(new Iova(RingIova), host, DriverQueue.BytesFor(16, features, 0)));
        Update(peer, new Iova(RingIova), 0x4000, DmaAccess.ReadWrite);
        // Two pages that are neighbours for the device only, the second one before the first.
        Update(peer, new Iova(BufferIova), 0x1000, DmaAccess.Write, BufferPlace + 0x3000);
        Update(peer, new Iova(BufferIova + 0x1000), 0x1000, DmaAccess.Write, BufferPlace);
        peer.Accepted(FrontendRequest.SetVringNum, new VringState { Number = 16 });
        peer.Accepted(FrontendRequest.SetVringBase, new VringState { Number = features.HasFlag(VirtioFeatures.RingPacked) ? 0x8000_8000 : 0u });
        peer.Accepted(FrontendRequest.SetVringAddr, new VringAddresses
        {
            Descriptor = new FrontendAddress(driver.DescriptorArea.Value),
            Available = new FrontendAddress(driver.DriverArea.Value),
            Used = new FrontendAddress(driver.DeviceArea.Value),
        });
        peer.Accepted(FrontendRequest.SetVringEnable, new VringState { Number = 1 });
        using var kick = new EventFd();
        peer.Accepted(FrontendRequest.SetVringKick, 0ul, kick.Descriptor);

        Receive();
        ulong first = (Peer.Guest.Value + BufferPlace) / DirtyLog.PageSize;
        CollectionAssert.AreEqual(new[] { first, first + 3 }, Take(log));
        peer.Accepted(FrontendRequest.SetFeatures, (ulong)(features | VhostFeatures.ProtocolFeatures));
        Receive();
        Assert.IsEmpty(Take(log));
        peer.Accepted(FrontendRequest.SetFeatures, (ulong)(features | VhostFeatures.LogAll | VhostFeatures.ProtocolFeatures));
        Receive();
        CollectionAssert.AreEqual(new[] { first, first + 3 }, Take(log));

        // A frame across both pages, as a poller would put it there.
        void Receive()
        {
            Assert.IsTrue(driver.TryAdd(
                [new DmaSegment(new PinnedBuffer(new Iova(BufferIova + 0xf00), host, 0x400), DeviceAccess.Write)], out _));
            driver.Publish();
            var queue = ReceiveQueue.Create(peer.Device.Running[0], new NetQueueCounters());
            frames.Batch.Add(600);
            Assert.AreEqual(1, queue.Enqueue(frames.Batch));
            peer.Device.StopsAt = queue.Position;
            Assert.AreEqual(1, driver.Reap(new Completion[1]));
        }
    }

    private static Peer Connect()
    {
        Peer peer = new Peer().Negotiate(VirtioFeatures.Version1 | VirtioFeatures.AccessPlatform).ShareMemory();
        Update(peer, new Iova(Peer.User.Value), Peer.MemoryLength, DmaAccess.ReadWrite);
        Update(peer, Readable, 0x1000, DmaAccess.Read);
        return peer;
    }

    private static void Update(Peer peer, Iova iova, ulong length, DmaAccess access, ulong place = 0) =>
        peer.Accepted(FrontendRequest.IotlbMsg, new IotlbMessage
        {
            Iova = iova,
            Size = length,
            UserAddress = Peer.User + place,
            Permissions = (byte)access,
            Type = IotlbMessageType.Update,
        });

    // Two pages of descriptors, the other way round in memory, and a page for each other part.
    private static void MapScattered(Peer peer, uint ring)
    {
        ulong iova = Peer.Addresses(ring).Descriptor.Value;
        ulong place = 0x40000 + (ring * 0x10000ul);
        Update(peer, new Iova(iova), 0x1000, DmaAccess.ReadWrite, place + 0x1000);
        Update(peer, new Iova(iova + 0x1000), 0x1000, DmaAccess.ReadWrite, place);
        Update(peer, new Iova(iova + 0x4000), 0x1000, DmaAccess.ReadWrite, place + 0x4000);
        Update(peer, new Iova(iova + 0x8000), 0x1000, DmaAccess.ReadWrite, place + 0x8000);
    }

    private static void StartScattered(Peer peer, uint ring)
    {
        MapScattered(peer, ring);
        peer.Accepted(FrontendRequest.SetVringNum, new VringState { Index = ring, Number = 512 });
        peer.Accepted(FrontendRequest.SetVringBase, new VringState { Index = ring, Number = 0x8000_8000 });
        peer.Accepted(FrontendRequest.SetVringAddr, Peer.Addresses(ring));
        peer.Accepted(FrontendRequest.SetVringEnable, new VringState { Index = ring, Number = 1 });
        using var kick = new EventFd();
        peer.Accepted(FrontendRequest.SetVringKick, (ulong)ring, kick.Descriptor);
        Assert.IsTrue(peer.Device.Running.ContainsKey((int)ring), string.Join("; ", peer.Log));
    }

    // More than the table holds, of which nothing merges. Downwards, so that CLOCK's hand passes over all and comes round again.
    private static void Flood(Peer peer)
    {
        for (ulong i = 0; i < 3 * RecordingDevice.Capacity; i++)
        {
            Update(peer, new Iova(Peer.User.Value + 0x80_0000_0000 - (i * 0x2000)), 0x1000, DmaAccess.Read);
        }
    }

    // The bits that are set, which are cleared.
    private static unsafe ulong[] Take(MappedMemory log)
    {
        var bits = new List<ulong>();
        for (ulong i = 0; i < log.Length * 8; i++)
        {
            if ((((byte*)log.Address)[i / 8] & (1 << (int)(i % 8))) != 0)
            {
                bits.Add(i);
            }
        }

        new Span<byte>((void*)log.Address, (int)log.Length).Clear();
        return [.. bits];
    }

    // What a poller does with a chain that may not be written.
    private static void Refuse(IotlbView view)
    {
        view.Begin();
        Assert.AreEqual(TranslationStatus.Denied, view.Translate(Readable, 1, DmaAccess.Write, out _, out _));
        view.Ask();
    }

    private static void Miss(IotlbView view, Iova address)
    {
        view.Begin();
        Assert.AreEqual(TranslationStatus.Miss, view.Translate(address, 1, DmaAccess.Read, out _, out _));
        view.Ask();
    }

    private static (IotlbMessageType Type, Iova Address) Next(MessageChannel channel)
    {
        Assert.IsTrue(channel.Receive());
        IotlbMessage message = MemoryMarshal.Read<IotlbMessage>(channel.Payload);
        return (message.Type, message.Iova);
    }
}
