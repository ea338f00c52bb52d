using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.VhostUser.Tests.Session;

/// <summary>A front-end that takes what there is only so much of, or gives what is not what it should be.</summary>
[TestClass]
public sealed class HostileResourceTests
{
    private const ulong Terabyte = 1ul << 40;

    [TestMethod]
    public void Address_space_of_one_front_end_is_bounded_and_comes_back()
    {
        using FileDescriptor sparse = MemoryFile.Create("sparse", Terabyte);
        using Peer peer = new Peer(new MappingLimits((3 * Terabyte) + (1 << 20), 100)).Negotiate();
        for (ulong i = 1; i <= 3; i++)
        {
            peer.Accepted(FrontendRequest.AddMemReg, Region(i), sparse);
        }

        peer.Refused(FrontendRequest.AddMemReg, Region(4), sparse);
        StringAssert.Contains(string.Join('\n', peer.Log), "ENOMEM", StringComparison.Ordinal);
        Assert.AreEqual(1, peer.Session.Refused);
        peer.Accepted(FrontendRequest.RemMemReg, Region(1));
        peer.Accepted(FrontendRequest.AddMemReg, Region(4), sparse);
    }

    [TestMethod]
    public void A_region_at_the_end_of_a_large_file_takes_no_more_than_itself()
    {
        using FileDescriptor sparse = MemoryFile.Create("sparse", 16 * Terabyte);
        using Peer peer = new Peer(new MappingLimits(1 << 20, 100)).Negotiate();
        peer.Accepted(
            FrontendRequest.AddMemReg,
            Peer.Region(Peer.Guest, Peer.User, 0x10000, (16 * Terabyte) - 0x10000), sparse);
    }

    [TestMethod]
    public void Mappings_of_one_front_end_are_bounded()
    {
        using Peer peer = new Peer(new MappingLimits(Terabyte, 30)).Negotiate();
        int accepted = 0;
        for (ulong i = 0; i < 20; i++)
        {
            peer.Send(FrontendRequest.AddMemReg,
                Peer.Region(new GuestPhysicalAddress(i << 32), new FrontendAddress(i << 32), 4096), peer.Memory);
            accepted += peer.ReadAnswer() == 0 ? 1 : 0;
        }

        Assert.AreEqual(10, accepted);
        Assert.AreEqual(10, peer.Session.Refused);
    }

    [TestMethod]
    // As many views as that would take are not to be had: each access looks its page up.
    [DataRow(4096ul, true, "is slower for it")]
    // No access may lie across two pieces, so this is no ring.
    [DataRow(4092ul, false, "do not end where pages do")]
    public void A_ring_in_more_pieces_than_views_may_have_does_without_or_is_refused_and_the_session_goes_on(
        ulong piece, bool runs, string line)
    {
        using Peer peer = new Peer(new MappingLimits(Terabyte, 20))
            .Negotiate(VirtioFeatures.Version1 | VirtioFeatures.AccessPlatform).ShareMemory();
        peer.Accepted(FrontendRequest.SetVringNum, new VringState { Number = 8192 });
        peer.Accepted(FrontendRequest.SetVringAddr, new VringAddresses
        {
            Descriptor = new FrontendAddress(0x10_0000),
            Available = new FrontendAddress(0x20_0000),
            Used = new FrontendAddress(0x30_0000),
        });
        using var kick = new EventFd();
        peer.Accepted(FrontendRequest.SetVringKick, 0ul, kick.Descriptor);
        // 32 pages of descriptors, each before the one that precedes it: nothing merges.
        for (ulong i = 0; i < 64; i++)
        {
            foreach (ulong part in new[] { 0x10_0000ul, 0x20_0000ul, 0x30_0000ul })
            {
                peer.Accepted(FrontendRequest.IotlbMsg, new IotlbMessage
                {
                    Iova = new Iova(part + (i * piece)),
                    Size = piece,
                    UserAddress = Peer.User + ((63 - i) * 4096),
                    Permissions = 3,
                    Type = IotlbMessageType.Update,
                });
            }
        }

        Assert.HasCount(runs ? 1 : 0, peer.Device.Running);
        StringAssert.Contains(string.Join('\n', peer.Log), line, StringComparison.Ordinal);
        peer.Ask<ulong>(FrontendRequest.GetFeatures, []);
    }

    [TestMethod]
    public void A_channel_that_is_no_stream_socket_is_refused()
    {
        using Peer peer = new Peer().Negotiate();
        using var eventFd = new EventFd();
        foreach (FileDescriptor file in new[] { peer.Memory, eventFd.Descriptor })
        {
            peer.Send(FrontendRequest.SetBackendReqFd, [], file);
            Assert.AreEqual(1ul, peer.ReadAnswer());
        }

        Assert.AreEqual(2, peer.Session.Refused);
    }

    [TestMethod]
    public void Memory_that_was_gone_before_a_ring_started_in_it_ends_the_session()
    {
        using Peer peer = new Peer(canShrink: true).Negotiate().ShareMemory();
        Assert.AreEqual(0, LibC.ftruncate(peer.Memory.Number, 0));
        peer.AsksForReplies = false;
        peer.Send(FrontendRequest.SetVringNum, new VringState { Number = 256 });
        peer.Send(FrontendRequest.SetVringAddr, Peer.Addresses(0));
        using var kick = new EventFd();
        peer.Send(FrontendRequest.SetVringKick, 0ul, kick.Descriptor);
        // The session reads the ring's index, and is cut off by that.
        peer.AssertEnds();
        Assert.AreEqual(1, peer.Session.Losses);
        StringAssert.Contains(string.Join('\n', peer.Log), "memory of the front-end was gone", StringComparison.Ordinal);
    }

    [TestMethod]
    [DataRow(VirtioFeatures.Version1)]
    [DataRow(VirtioFeatures.Version1 | VirtioFeatures.RingPacked)]
    public void A_record_of_what_is_in_flight_that_is_gone_ends_the_session(VirtioFeatures features)
    {
        using Peer peer = new Peer().Negotiate(
            features, ProtocolFeatures.ReplyAck | ProtocolFeatures.InflightShmfd | ProtocolFeatures.ConfigureMemSlots).ShareMemory();
        using FileDescriptor file = MemoryFile.Create("record", 1 << 20, canShrink: true);
        peer.Accepted(
            FrontendRequest.SetInflightFd, new InflightDescription { MmapSize = 1 << 20, QueueCount = 4, QueueSize = 256 }, file);
        Assert.AreEqual(0, LibC.ftruncate(file.Number, 0));
        peer.AsksForReplies = false;
        peer.Send(FrontendRequest.SetVringNum, new VringState { Number = 256 });
        peer.Send(FrontendRequest.SetVringAddr, Peer.Addresses(0));
        using var kick = new EventFd();
        peer.Send(FrontendRequest.SetVringKick, 0ul, kick.Descriptor);
        peer.AssertEnds();
        Assert.AreEqual(1, peer.Session.Losses);
    }

    private static SingleRegion Region(ulong index) =>
        Peer.Region(new GuestPhysicalAddress(index * Terabyte), new FrontendAddress(index * Terabyte), Terabyte);
}
