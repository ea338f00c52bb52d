using System.Runtime.InteropServices;
using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.VhostUser.Tests.Session;

/// <summary>Whatever a front-end sends: the request or the session ends with a line in the log, and nothing is left open.</summary>
[TestClass]
[DoNotParallelize]
public sealed class HostileMessageTests
{
    private HashSet<string> _before = [];

    [TestInitialize]
    public void ListDescriptors() => _before = [.. OpenDescriptors()];

    [TestCleanup]
    public void NothingIsLeftOpen()
    {
        string[] left = [.. OpenDescriptors().Except(_before)];
        Assert.IsEmpty(left, string.Join(' ', left));
    }

    [TestMethod]
    public void Every_message_with_a_wrong_size_ends_the_session()
    {
        foreach (FrontendRequest request in Enum.GetValues<FrontendRequest>())
        {
            if (!MessageRule.TryGet(request, out MessageRule rule))
            {
                continue;
            }

            foreach (int size in new[] { rule.MinPayload - 1, rule.MaxPayload + 1, MessageChannel.MaxPayload })
            {
                if (size >= 0)
                {
                    AssertEnds(request, new byte[size], rule.MinDescriptors);
                }
            }
        }
    }

    [TestMethod]
    public void Every_message_with_a_wrong_number_of_descriptors_ends_the_session()
    {
        foreach (FrontendRequest request in Enum.GetValues<FrontendRequest>())
        {
            if (!MessageRule.TryGet(request, out MessageRule rule))
            {
                continue;
            }

            AssertEnds(request, new byte[rule.MinPayload], rule.MaxDescriptors + 1);
            if (rule.MinDescriptors > 0)
            {
                AssertEnds(request, new byte[rule.MinPayload], 0);
            }
        }
    }

    [TestMethod]
    public void A_wrong_version_a_reply_an_unknown_request_and_a_huge_size_end_the_session()
    {
        AssertEndsRaw(Header(FrontendRequest.GetFeatures, flags: 0, size: 0));
        AssertEndsRaw(Header(FrontendRequest.GetFeatures, flags: 2, size: 0));
        AssertEndsRaw(Header(FrontendRequest.GetFeatures, MessageHeader.Version | MessageHeader.Reply, 0));
        AssertEndsRaw(Header((FrontendRequest)0, MessageHeader.Version, 0));
        AssertEndsRaw(Header((FrontendRequest)27, MessageHeader.Version, 0));
        AssertEndsRaw(Header((FrontendRequest)uint.MaxValue, MessageHeader.Version, 0));
        AssertEndsRaw(Header(FrontendRequest.SetFeatures, MessageHeader.Version, uint.MaxValue));
        AssertEndsRaw(Header(FrontendRequest.SetFeatures, MessageHeader.Version, MessageChannel.MaxPayload + 1));
    }

    [TestMethod]
    public void Every_message_of_another_version_ends_the_session()
    {
        foreach (FrontendRequest request in Enum.GetValues<FrontendRequest>())
        {
            if (MessageRule.TryGet(request, out MessageRule rule))
            {
                AssertEndsRaw([.. Header(request, flags: 0, (uint)rule.MinPayload), .. new byte[rule.MinPayload]]);
                AssertEndsRaw([.. Header(request, flags: 3, (uint)rule.MinPayload), .. new byte[rule.MinPayload]]);
            }
        }
    }

    [TestMethod]
    public void A_message_inside_another_is_its_payload()
    {
        // The header promises 8 bytes: the first 8 of the next message are taken for them, and what is left is no header.
        byte[] inner = [.. Header(FrontendRequest.SetVringNum, MessageHeader.Version, 8), .. new byte[8]];
        AssertEndsRaw([.. Header(FrontendRequest.SetFeatures, MessageHeader.Version, 8), .. inner]);
    }

    [TestMethod]
    public void Every_message_may_come_first_and_twice()
    {
        foreach (FrontendRequest request in Enum.GetValues<FrontendRequest>())
        {
            if (!MessageRule.TryGet(request, out MessageRule rule))
            {
                continue;
            }

            using var peer = new Peer();
            var files = new FileDescriptor[rule.MinDescriptors];
            Array.Fill(files, peer.Memory);
            byte[] message = [.. Header(request, MessageHeader.Version, (uint)rule.MinPayload), .. new byte[rule.MinPayload]];
            peer.SendRaw(message, files);
            peer.SendRaw(message, files);
            peer.Close();
            peer.AssertEnds();
            // Answered or done, or refused with a line that says so: nothing between.
            Assert.AreEqual(peer.Session.Refused, peer.Log.Count(l => l.Contains("session ended", StringComparison.Ordinal)), request.ToString());
        }
    }

    [TestMethod]
    public void A_connection_that_ends_inside_a_message_ends_the_session()
    {
        byte[] message = [.. Header(FrontendRequest.SetFeatures, MessageHeader.Version, 8), .. new byte[8]];
        for (int length = 1; length < message.Length; length++)
        {
            using var peer = new Peer();
            using var descriptor = new EventFd();
            peer.SendRaw(message.AsSpan(0, length), descriptor.Descriptor);
            peer.Close();
            peer.AssertEnds();
            Assert.AreEqual(1, peer.Session.Refused);
        }
    }

    [TestMethod]
    public void A_message_in_single_bytes_is_a_message()
    {
        using var peer = new Peer();
        byte[] message = [.. Header(FrontendRequest.SetFeatures, MessageHeader.Version, 8), .. BitConverter.GetBytes((ulong)VirtioFeatures.Version1)];
        foreach (byte b in message)
        {
            peer.SendRaw([b]);
        }

        peer.Ask<ulong>(FrontendRequest.GetFeatures, []);
        Assert.AreEqual(VirtioFeatures.Version1, peer.Session.Features);
    }

    [TestMethod]
    public void Descriptors_without_end_end_the_session_before_the_message_does()
    {
        using var peer = new Peer();
        using var descriptor = new EventFd();
        FileDescriptor[] many = [.. Enumerable.Repeat(descriptor.Descriptor, 20)];
        peer.SendRaw(Header(FrontendRequest.SetMemTable, MessageHeader.Version, 8));
        peer.SendRaw([0], many);
        peer.AssertEnds();
        Assert.AreEqual(1, peer.Session.Refused);
    }

    [TestMethod]
    public void Descriptors_stay_with_their_message_when_payloads_follow_by_themselves()
    {
        using var peer = new Peer();
        using var descriptor = new EventFd();
        byte[] header = Header(FrontendRequest.SetVringCall, MessageHeader.Version, 8);
        byte[] payload = new byte[8];
        // The session reads while the first header is all there is: what follows comes in one read.
        peer.Ask<ulong>(FrontendRequest.GetFeatures, []);
        for (int i = 0; i < 100; i++)
        {
            peer.SendRaw(header, descriptor.Descriptor);
            peer.SendRaw(payload);
        }

        peer.Ask<ulong>(FrontendRequest.GetFeatures, []);
        Assert.AreEqual(102, peer.Session.Messages);
        Assert.AreEqual(0, peer.Session.Refused);
    }

    [TestMethod]
    public void What_was_not_negotiated_or_not_on_offer_is_refused()
    {
        using var peer = new Peer().Negotiate(protocol: ProtocolFeatures.ReplyAck);
        peer.Refused(FrontendRequest.NetSetMtu, 1500ul);
        peer.Refused(FrontendRequest.SetFeatures, 1ul << 40);
        peer.Refused(FrontendRequest.SetProtocolFeatures, 1ul << 8);
        peer.Refused(FrontendRequest.SetProtocolFeatures, 1ul << 63);
        peer.Refused(FrontendRequest.SetVringNum, new VringState { Index = 4, Number = 16 });
        peer.Refused(FrontendRequest.SetVringNum, new VringState { Index = uint.MaxValue, Number = 16 });
        peer.Refused(FrontendRequest.SetVringEnable, new VringState { Index = 0, Number = 2 });
        Assert.AreEqual(7, peer.Session.Refused);
        Assert.HasCount(7, peer.Log);
    }

    [TestMethod]
    public void In_band_notifications_without_a_channel_end_the_session()
    {
        using var peer = new Peer();
        peer.Send(FrontendRequest.SetProtocolFeatures, (ulong)ProtocolFeatures.InbandNotifications);
        peer.AssertEnds();
    }

    [TestMethod]
    public void Memory_that_is_not_as_announced_is_refused()
    {
        using Peer peer = new Peer().Negotiate().ShareMemory();
        var far = new GuestPhysicalAddress(1ul << 50);
        var farUser = new FrontendAddress(1ul << 50);
        using var notMemory = new EventFd();
        Refuse(Peer.Region(far, farUser, 0), peer.Memory);
        Refuse(Peer.Region(far, farUser, Peer.MemoryLength + 1), peer.Memory);
        Refuse(Peer.Region(far, farUser, 4096, Peer.MemoryLength), peer.Memory);
        Refuse(Peer.Region(far, farUser, 4096, ulong.MaxValue - 100), peer.Memory);
        Refuse(Peer.Region(new GuestPhysicalAddress(ulong.MaxValue - 100), farUser, 4096), peer.Memory);
        Refuse(Peer.Region(far, new FrontendAddress(ulong.MaxValue - 100), 4096), peer.Memory);
        Refuse(Peer.Region(far, farUser, ulong.MaxValue), peer.Memory);
        Refuse(Peer.Region(far, farUser, 4096), notMemory.Descriptor);
        // Overlaps, by the guest's addresses and by the front-end's.
        Refuse(Peer.Region(Peer.Guest + 4096, farUser, 4096), peer.Memory);
        Refuse(Peer.Region(far, Peer.User + 4096, 4096), peer.Memory);
        peer.Refused(FrontendRequest.RemMemReg, Peer.Region(far, farUser, 4096));
        peer.SetUpRing(0);
        Assert.HasCount(1, peer.Device.Running[0].Memory.Regions);

        void Refuse(SingleRegion region, FileDescriptor file) => peer.Refused(FrontendRequest.AddMemReg, region, file);
    }

    [TestMethod]
    public void A_table_that_counts_wrongly_is_refused()
    {
        using Peer peer = new Peer().Negotiate();
        foreach (uint count in new uint[] { 0, 2, 8, 9, uint.MaxValue })
        {
            var table = new OneRegion
            {
                Header = new MemoryTableHeader { RegionCount = count },
                Region = Peer.Region(Peer.Guest, Peer.User, 4096).Region,
            };
            peer.Refused(FrontendRequest.SetMemTable, table, peer.Memory);
        }
    }

    [TestMethod]
    public void A_ring_that_is_not_wholly_in_memory_or_not_aligned_is_refused()
    {
        foreach (ulong offset in new[] { Peer.MemoryLength, Peer.MemoryLength - 16, ulong.MaxValue - Peer.User.Value, 8ul, 1ul })
        {
            foreach (int part in new[] { 0, 1, 2 })
            {
                if (offset == 8 && part != 0)
                {
                    // Aligned enough for the two smaller parts.
                    continue;
                }

                using Peer peer = new Peer().Negotiate().ShareMemory();
                peer.SetUpRing(0);
                VringAddresses addresses = Peer.Addresses(0);
                var moved = new FrontendAddress(unchecked(Peer.User.Value + offset));
                addresses.Descriptor = part == 0 ? moved : addresses.Descriptor;
                addresses.Available = part == 1 ? moved : addresses.Available;
                addresses.Used = part == 2 ? moved : addresses.Used;
                peer.Refused(FrontendRequest.SetVringAddr, addresses);
                Assert.IsEmpty(peer.Device.Running);
            }
        }
    }

    [TestMethod]
    public void Ring_sizes_that_cannot_be_are_refused()
    {
        using Peer peer = new Peer().Negotiate().ShareMemory();
        peer.Refused(FrontendRequest.SetVringNum, new VringState { Number = 0 });
        peer.Refused(FrontendRequest.SetVringNum, new VringState { Number = 32769 });
        peer.Refused(FrontendRequest.SetVringNum, new VringState { Number = uint.MaxValue });
        peer.Accepted(FrontendRequest.SetVringNum, new VringState { Number = 255 });
        // Room for 256 descriptors, to the byte.
        VringAddresses atTheEnd = Peer.Addresses(0) with { Descriptor = Peer.User + (Peer.MemoryLength - 4096) };
        peer.Accepted(FrontendRequest.SetVringAddr, atTheEnd);
        using var kick = new EventFd();
        peer.Refused(FrontendRequest.SetVringKick, 0ul, kick.Descriptor);
        peer.Refused(FrontendRequest.SetVringNum, new VringState { Number = 512 });
        peer.Accepted(FrontendRequest.SetVringNum, new VringState { Number = 256 });
        Assert.HasCount(1, peer.Device.Running);
        peer.Refused(FrontendRequest.SetVringNum, new VringState { Number = 128 });
        peer.Refused(FrontendRequest.SetVringBase, new VringState { Number = 1 });
    }

    [TestMethod]
    public void A_packed_ring_cannot_start_beyond_its_end()
    {
        using Peer peer = new Peer().Negotiate(VirtioFeatures.Version1 | VirtioFeatures.RingPacked).ShareMemory();
        peer.Accepted(FrontendRequest.SetVringNum, new VringState { Number = 255 });
        peer.Accepted(FrontendRequest.SetVringBase, new VringState { Number = 255 });
        peer.Accepted(FrontendRequest.SetVringAddr, Peer.Addresses(0));
        using var kick = new EventFd();
        peer.Refused(FrontendRequest.SetVringKick, 0ul, kick.Descriptor);
    }

    [TestMethod]
    public void A_kick_that_is_no_eventfd_is_refused()
    {
        using Peer peer = new Peer().Negotiate();
        (UnixSocket first, UnixSocket second) = UnixSocket.Pair();
        using (first)
        using (second)
        {
            peer.Refused(FrontendRequest.SetVringKick, 0ul, first.Descriptor);
            peer.Refused(FrontendRequest.SetVringCall, 0ul, peer.Memory);
            peer.Refused(FrontendRequest.SetVringErr, 0x100ul, peer.Memory);
            peer.Refused(FrontendRequest.SetVringKick, 0ul);
        }
    }

    [TestMethod]
    public void A_log_that_its_file_does_not_hold_is_refused()
    {
        foreach (LogDescription log in new LogDescription[]
        {
            new() { Size = Peer.MemoryLength + 8 },
            new() { Size = 0 },
            new() { Size = 64, Offset = 4 },
            new() { Size = 64, Offset = ulong.MaxValue - 7 },
            new() { Size = ulong.MaxValue, Offset = 8 },
        })
        {
            using Peer peer = new Peer().Negotiate();
            peer.Send(FrontendRequest.SetLogBase, log, peer.Memory);
            peer.AssertEnds();
        }
    }

    private static void AssertEnds(FrontendRequest request, byte[] payload, int descriptors)
    {
        using Peer peer = new Peer().Negotiate();
        peer.AsksForReplies = false;
        var files = new FileDescriptor[descriptors];
        Array.Fill(files, peer.Memory);
        peer.Send(request, payload, files);
        peer.AssertEnds();
        Assert.AreEqual(1, peer.Session.Refused, $"{request} with {payload.Length} bytes, {descriptors} descriptors");
        StringAssert.Contains(string.Join('\n', peer.Log), request.ToString());
    }

    private static void AssertEndsRaw(ReadOnlySpan<byte> bytes)
    {
        using var peer = new Peer();
        peer.SendRaw(bytes);
        peer.AssertEnds();
        Assert.AreEqual(1, peer.Session.Refused);
    }

    private static byte[] Header(FrontendRequest request, uint flags, uint size)
    {
        var header = new MessageHeader { Request = (uint)request, Flags = flags, Size = size };
        return MemoryMarshal.AsBytes(new ReadOnlySpan<MessageHeader>(in header)).ToArray();
    }

    // What sessions hold. The runtime opens its libraries as it needs them, and keeps them.
    private static IEnumerable<string> OpenDescriptors() => Directory.GetFiles("/proc/self/fd")
        .Select(f => $"{f} {new FileInfo(f).LinkTarget}")
        .Where(f => f.Contains("socket:", StringComparison.Ordinal) || f.Contains("eventfd", StringComparison.Ordinal)
            || f.Contains("/memfd:", StringComparison.Ordinal));

    private struct OneRegion
    {
        public MemoryTableHeader Header;
        public RegionDescription Region;
    }
}
