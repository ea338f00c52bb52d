using System.Runtime.InteropServices;
using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.VhostUser.Tests.Session;

[TestClass]
public sealed class SessionTests
{
    private const ulong Page = 4096;
    private const VirtioFeatures ScatteredRing = VirtioFeatures.Version1 | VirtioFeatures.RingPacked | VirtioFeatures.AccessPlatform;

    [TestMethod]
    public void Features_on_offer_are_the_devices_and_protocol_features()
    {
        using var peer = new Peer();
        ulong features = peer.Ask<ulong>(FrontendRequest.GetFeatures, []);
        Assert.AreEqual((ulong)(peer.Device.Features | VhostFeatures.ProtocolFeatures), features);
        var protocol = (ProtocolFeatures)peer.Ask<ulong>(FrontendRequest.GetProtocolFeatures, []);
        Assert.IsTrue(protocol.HasFlag(ProtocolFeatures.ReplyAck | ProtocolFeatures.ConfigureMemSlots));
        // What nobody wrote is not offered, whatever the device says.
        Assert.IsFalse(protocol.HasFlag(ProtocolFeatures.PageFault));
    }

    [TestMethod]
    public unsafe void A_ring_is_found_by_front_end_addresses_and_its_buffers_by_guest_addresses()
    {
        using Peer peer = new Peer().Negotiate().ShareMemory();
        using var here = MappedMemory.Map(peer.Memory, 0, Peer.MemoryLength, writable: true);
        ((byte*)here.Address)[0x20000] = 42;
        peer.SetUpRing(2);
        VringConfiguration ring = peer.Device.Running[2];
        Assert.IsTrue(ring.Enabled);
        Assert.AreEqual(42, *(byte*)ring.Addresses.Descriptors.Value);
        var translator = new GuestMemoryTranslator(ring.Memory);
        Assert.AreEqual(TranslationStatus.Translated, translator.Translate(
            new BusAddress(Peer.Guest.Value + 0x20000), 1, DeviceAccess.Read, out HostAddress host, out _));
        Assert.AreEqual(ring.Addresses.Descriptors, host);
        Assert.AreEqual(TranslationStatus.Denied, translator.Translate(
            new BusAddress(Peer.User.Value + 0x20000), 1, DeviceAccess.Read, out _, out _));
    }

    [TestMethod]
    public void A_ring_runs_once_all_was_said_in_whatever_order()
    {
        using Peer peer = new Peer().Negotiate();
        using var kick = new EventFd();
        peer.Accepted(FrontendRequest.SetVringKick, 1ul, kick.Descriptor);
        peer.Accepted(FrontendRequest.SetVringAddr, Peer.Addresses(1));
        peer.Accepted(FrontendRequest.SetVringEnable, new VringState { Index = 1, Number = 1 });
        peer.Accepted(FrontendRequest.SetVringNum, new VringState { Index = 1, Number = 128 });
        Assert.IsEmpty(peer.Device.Running);
        peer.ShareMemory();
        Assert.AreEqual(128, peer.Device.Running[1].Size);
    }

    [TestMethod]
    public void Get_base_stops_a_ring_and_the_next_kick_starts_it_there()
    {
        using Peer peer = new Peer().Negotiate(VirtioFeatures.Version1 | VirtioFeatures.RingPacked).ShareMemory();
        peer.Accepted(FrontendRequest.SetVringNum, new VringState { Index = 0, Number = 256 });
        peer.Accepted(FrontendRequest.SetVringBase, new VringState { Index = 0, Number = 0x8010 });
        peer.Accepted(FrontendRequest.SetVringAddr, Peer.Addresses(0));
        using var kick = new EventFd();
        peer.Accepted(FrontendRequest.SetVringKick, 0ul, kick.Descriptor);
        Assert.IsTrue(peer.Device.Running.ContainsKey(0));

        VringState stopped = peer.Ask(FrontendRequest.GetVringBase, new VringState { Index = 0 });
        Assert.AreEqual(0x8010_8010u, stopped.Number);
        Assert.IsEmpty(peer.Device.Running);
        peer.Accepted(FrontendRequest.SetVringKick, 0ul, kick.Descriptor);
        Assert.AreEqual(0x8010, peer.Device.Running[0].Position.Avail);
    }

    [TestMethod]
    public void A_packed_ring_that_was_made_shorter_than_where_it_stood_does_not_start()
    {
        foreach (RingPosition stood in new RingPosition[] { new(0x8000 | 250, 0x8000 | 4), new(4, 0x8000 | 250) })
        {
            using Peer peer = new Peer().Negotiate(VirtioFeatures.Version1 | VirtioFeatures.RingPacked).ShareMemory();
            peer.SetUpRing(0);
            peer.Device.StopsAt = stood;
            peer.Ask(FrontendRequest.GetVringBase, new VringState { Index = 0 });
            peer.Accepted(FrontendRequest.SetVringNum, new VringState { Index = 0, Number = 16 });
            using var kick = new EventFd();
            peer.Refused(FrontendRequest.SetVringKick, 0ul, kick.Descriptor);
            Assert.IsEmpty(peer.Device.Running);
        }
    }

    [TestMethod]
    public unsafe void A_split_ring_goes_on_where_its_used_index_stands()
    {
        using Peer peer = new Peer().Negotiate().ShareMemory();
        using var here = MappedMemory.Map(peer.Memory, 0, Peer.MemoryLength, writable: true);
        ((ushort*)(here.Address + 0x8000))[1] = 77;
        peer.SetUpRing(0);
        Assert.AreEqual(new RingPosition(77, 77), peer.Device.Running[0].Position);
    }

    [TestMethod]
    public void All_pages_of_a_scattered_ring_that_the_device_writes_are_logged()
    {
        using Peer peer = new Peer().Negotiate(ScatteredRing | VhostFeatures.LogAll).ShareMemory();
        peer.SetLog(1 << 16, peer.Memory);
        MapScatteredRing(peer);
        peer.Accepted(FrontendRequest.SetVringBase, new VringState { Index = 0, Number = 0x8000 });
        // With an IOMMU the address of the log is an IOVA to some: what counts is where the ring is.
        peer.Accepted(FrontendRequest.SetVringAddr, Peer.Addresses(0) with { Flags = VringAddresses.FlagLog, Log = Peer.Guest + 0x38000 });
        using var kick = new EventFd();
        peer.Accepted(FrontendRequest.SetVringKick, 0ul, kick.Descriptor);
        CollectionAssert.AreEquivalent(
            new (GuestPhysicalAddress, ulong)[] { (Peer.Guest + 0x28000, 4), (Peer.Guest + 0x20000, Page), (Peer.Guest + 0x21000, Page) },
            peer.Device.Running[0].LoggedAreas.ToArray());
    }

    [TestMethod]
    public void A_ring_that_cannot_start_takes_nothing_however_often_it_is_tried()
    {
        // Room for the memory and one view of two pages.
        using Peer peer = new Peer(MappingLimits.Peer with { Mappings = 8 }).Negotiate(ScatteredRing).ShareMemory();
        MapScatteredRing(peer);
        peer.Accepted(FrontendRequest.SetVringAddr, Peer.Addresses(0));
        peer.Accepted(FrontendRequest.SetVringBase, new VringState { Index = 0, Number = 0x8000 | 600 });
        using var kick = new EventFd();
        peer.Refused(FrontendRequest.SetVringKick, 0ul, kick.Descriptor);
        for (int i = 0; i < 4; i++)
        {
            peer.Accepted(FrontendRequest.SetFeatures, (ulong)(ScatteredRing | VhostFeatures.ProtocolFeatures));
        }

        peer.Accepted(FrontendRequest.SetVringBase, new VringState { Index = 0, Number = 0x8000 });
        peer.Accepted(FrontendRequest.SetVringKick, 0ul, kick.Descriptor);
        Assert.IsFalse(peer.Device.Running[0].Addresses.IsScattered, string.Join("; ", peer.Log));
    }

    [TestMethod]
    public void Memory_comes_and_goes_under_running_rings()
    {
        using Peer peer = new Peer().Negotiate().ShareMemory();
        peer.SetUpRing(0);
        using FileDescriptor more = MemoryFile.Create("more", 1 << 16);
        SingleRegion region = Peer.Region(new GuestPhysicalAddress(0), new FrontendAddress(0x1000), 1 << 16);
        peer.Accepted(FrontendRequest.AddMemReg, region, more);
        Assert.HasCount(2, peer.Device.Running[0].Memory.Regions);
        peer.Accepted(FrontendRequest.RemMemReg, region);
        Assert.HasCount(1, peer.Device.Running[0].Memory.Regions);
        // The ring's own memory: the ring stops, the session goes on.
        peer.Accepted(FrontendRequest.RemMemReg, Peer.Region(Peer.Guest, Peer.User, Peer.MemoryLength));
        Assert.IsEmpty(peer.Device.Running);
        peer.ShareMemory();
        Assert.HasCount(1, peer.Device.Running);
    }

    [TestMethod]
    public void As_many_regions_as_are_promised_fit_and_not_one_more()
    {
        using Peer peer = new Peer().Negotiate();
        Assert.AreEqual(509ul, peer.Ask<ulong>(FrontendRequest.GetMaxMemSlots, []));
        for (ulong i = 0; i < 509; i++)
        {
            peer.Accepted(FrontendRequest.AddMemReg,
                Peer.Region(new GuestPhysicalAddress(i << 32), new FrontendAddress(i << 32), 4096), peer.Memory);
        }

        peer.Refused(FrontendRequest.AddMemReg,
            Peer.Region(new GuestPhysicalAddress(1ul << 60), new FrontendAddress(1ul << 60), 4096), peer.Memory);
    }

    [TestMethod]
    public void Config_space_mtu_and_status_are_answered()
    {
        using Peer peer = new Peer().Negotiate();
        Span<byte> ask = stackalloc byte[20];
        MemoryMarshal.Write(ask, new ConfigHeader { Offset = 4, Size = 8 });
        Assert.AreEqual(0x0B0A0908_07060504ul, peer.Ask<Config8>(FrontendRequest.GetConfig, ask).Bytes);
        MemoryMarshal.Write(ask, new ConfigHeader { Offset = 250, Size = 8 });
        Assert.AreEqual(default, peer.Ask<Config8>(FrontendRequest.GetConfig, ask));
        peer.Refused(FrontendRequest.SetConfig, new ConfigHeader());

        peer.Accepted(FrontendRequest.NetSetMtu, 9000ul);
        Assert.AreEqual(9000ul, peer.Device.Mtu);
        peer.Refused(FrontendRequest.NetSetMtu, 67ul);
        peer.Accepted(FrontendRequest.SetStatus, 0xFul);
        Assert.AreEqual(0xFul, peer.Ask<ulong>(FrontendRequest.GetStatus, []));
        Assert.AreEqual(2ul, peer.Ask<ulong>(FrontendRequest.GetQueueNum, []));
    }

    [TestMethod]
    public void Reset_forgets_rings_and_features()
    {
        using Peer peer = new Peer().Negotiate().ShareMemory();
        peer.SetUpRing(0);
        peer.Accepted(FrontendRequest.SetStatus, 0xFul);
        peer.Send(FrontendRequest.ResetDevice, []);
        Assert.AreEqual(0ul, peer.ReadAnswer());
        Assert.AreEqual(0ul, peer.Ask<ulong>(FrontendRequest.GetStatus, []));
        Assert.IsEmpty(peer.Device.Running);
        Assert.AreEqual(VirtioFeatures.None, peer.Session.Features);
    }

    [TestMethod]
    public void A_buffer_for_what_is_in_flight_is_made_and_taken_back()
    {
        using Peer peer = new Peer().Negotiate(protocol: ProtocolFeatures.ReplyAck | ProtocolFeatures.InflightShmfd
            | ProtocolFeatures.ConfigureMemSlots).ShareMemory();
        InflightDescription made = peer.Ask(
            FrontendRequest.GetInflightFd, new InflightDescription { QueueCount = 4, QueueSize = 256 });
        Assert.IsGreaterThanOrEqualTo(4ul * 16 * 257, made.MmapSize);
        using FileDescriptor file = peer.TakeDescriptor();
        peer.Accepted(FrontendRequest.SetInflightFd, made, file);
        peer.SetUpRing(0);
        peer.SetUpRing(1, 128);
        Assert.IsNotNull(peer.Device.Running[0].Inflight);
        // The buffer is for rings of 256.
        Assert.IsNull(peer.Device.Running[1].Inflight);
        peer.Refused(FrontendRequest.SetInflightFd, made with { MmapSize = made.MmapSize + 4096 }, file);
        peer.Refused(FrontendRequest.SetInflightFd, made with { QueueCount = 100 }, file);
        peer.Refused(FrontendRequest.SetInflightFd, made with { MmapOffset = ulong.MaxValue - 7 }, file);
    }

    [TestMethod]
    public void Calls_and_kicks_go_in_band_where_that_was_negotiated()
    {
        using Peer peer = new Peer().Negotiate().ShareMemory();
        (UnixSocket ours, UnixSocket theirs) = UnixSocket.Pair();
        using var backend = new MessageChannel(ours);
        using (theirs)
        {
            peer.Send(FrontendRequest.SetBackendReqFd, [], theirs.Descriptor);
        }

        Assert.AreEqual(0ul, peer.ReadAnswer());
        peer.Accepted(FrontendRequest.SetVringNum, new VringState { Index = 0, Number = 16 });
        peer.Accepted(FrontendRequest.SetVringAddr, Peer.Addresses(0));
        peer.Accepted(FrontendRequest.VringKick, new VringState { Index = 0 });
        Assert.AreEqual(1, peer.Device.Kicks);
        Assert.IsTrue(peer.Device.Running[0].Call!.TrySignal());
        Assert.IsTrue(backend.Receive());
        Assert.AreEqual((uint)BackendRequest.VringCall, backend.Header.Request);
    }

    // Ring 0, of 512 entries: its IOVAs are what Peer says are its addresses; its two pages of descriptors are the other way round in memory.
    // An update that contradicts takes something away as an invalidation does: who is told that it was done may give that memory away.
    [TestMethod]
    public void An_update_that_contradicts_is_acknowledged_after_a_grace_period()
    {
        using Peer peer = new Peer().Negotiate(ScatteredRing).ShareMemory();
        IotlbMessage Update(ulong place, byte permissions) => new()
        {
            Iova = new Iova(0x5000_0000),
            Size = Page,
            UserAddress = Peer.User + place,
            Permissions = permissions,
            Type = IotlbMessageType.Update,
        };
        peer.Accepted(FrontendRequest.IotlbMsg, Update(0x20000, 3));
        peer.Accepted(FrontendRequest.IotlbMsg, Update(0x20000, 3));
        Assert.AreEqual(0, peer.Device.Waits);
        peer.Accepted(FrontendRequest.IotlbMsg, Update(0x30000, 3));
        Assert.AreEqual(1, peer.Device.Waits);
        peer.Accepted(FrontendRequest.IotlbMsg, Update(0x30000, 1));
        Assert.AreEqual(2, peer.Device.Waits);
        peer.Accepted(FrontendRequest.IotlbMsg, Update(0, 0));
        Assert.AreEqual(3, peer.Device.Waits);
    }

    [TestMethod]
    public void A_front_end_that_knows_only_legacy_rings_is_told_of_in_the_log()
    {
        using Peer peer = new Peer().Negotiate(VirtioFeatures.RingEventIdx).ShareMemory();
        peer.SetUpRing(0);
        Assert.IsEmpty(peer.Device.Running);
        Assert.Contains("VIRTIO_F_VERSION_1", string.Join('\n', peer.Log));
    }

    [TestMethod]
    public void A_log_that_is_too_small_is_told_of_when_it_goes()
    {
        using Peer peer = new Peer().Negotiate(VirtioFeatures.Version1 | VhostFeatures.LogAll).ShareMemory();
        using FileDescriptor file = MemoryFile.Create("log", Page);
        peer.SetLog(Page, file);
        peer.SetUpRing(0);
        peer.Device.Running[0].Log!.Mark(Peer.Guest, 1);
        peer.SetLog(Page, file);
        Assert.Contains("too small for 1 writes", string.Join('\n', peer.Log));
    }

    private static void MapScatteredRing(Peer peer)
    {
        foreach ((ulong iova, ulong place) in new (ulong, ulong)[] { (0, 0x21000), (0x1000, 0x20000), (0x4000, 0x24000), (0x8000, 0x28000) })
        {
            peer.Accepted(FrontendRequest.IotlbMsg, new IotlbMessage
            {
                Iova = new Iova(Peer.User.Value + iova),
                Size = Page,
                UserAddress = Peer.User + place,
                Permissions = 3,
                Type = IotlbMessageType.Update,
            });
        }

        peer.Accepted(FrontendRequest.SetVringNum, new VringState { Index = 0, Number = 512 });
    }

    [StructLayout(LayoutKind.Sequential, Pack = 4)]
    private struct Config8
    {
        public ConfigHeader Header;
        public ulong Bytes;
    }
}
