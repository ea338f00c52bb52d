using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.VhostUser.Tests.Session;

/// <summary>Random sessions with an IOMMU: updates and invalidations that wrap, are empty, overlap, are of no known type, cover
/// everything or come in floods, between requests that set rings up and take their memory away.</summary>
internal static class IotlbMessageFuzzer
{
    private static readonly ulong[] Sizes = [0, 1, 15, 4095, 4096, 4097, 8192, 0x10000, 1 << 21, Peer.MemoryLength, 1ul << 40, ulong.MaxValue - 1, ulong.MaxValue];

    public static void RunOnce(Random random)
    {
        using var peer = new Peer();
        peer.Negotiate(VirtioFeatures.Version1 | VirtioFeatures.AccessPlatform | (random.Next(2) == 0 ? 0 : VirtioFeatures.RingPacked));
        (UnixSocket ours, UnixSocket theirs) = UnixSocket.Pair();
        using (ours)
        using (theirs)
        {
            // Nobody reads there: it fills up.
            if (random.Next(4) != 0)
            {
                peer.Send(FrontendRequest.SetBackendReqFd, [], theirs.Descriptor);
                Assert.AreEqual(0ul, peer.ReadAnswer());
            }

            if (random.Next(8) != 0)
            {
                peer.ShareMemory();
            }

            peer.AsksForReplies = random.Next(4) != 0;
            try
            {
                for (int message = random.Next(1, 150); message > 0; message--)
                {
                    SendOne(peer, random);
                }
            }
            catch (LinuxException e)
            {
                // The session ended at an earlier message.
                Assert.IsTrue(e.Errno is Errno.EPIPE or Errno.ECONNRESET, e.Message);
            }
        }

        peer.Close();
        peer.AssertEnds();
        // Rings hold what they lie in; everything else is thrown out for want of room.
        Assert.IsLessThan(RecordingDevice.Capacity + 200, peer.Session.Iotlb.Entries);
    }

    private static void SendOne(Peer peer, Random random)
    {
        using var kick = new EventFd();
        uint ring = (uint)random.Next(4);
        switch (random.Next(24))
        {
            case 0:
                peer.Send(FrontendRequest.SetVringNum, new VringState { Index = ring, Number = 1u << random.Next(1, 16) });
                break;
            case 1:
                VringAddresses addresses = Peer.Addresses(ring);
                addresses.Descriptor = random.Next(4) == 0 ? new FrontendAddress(Number(random)) : addresses.Descriptor;
                addresses.Available = random.Next(8) == 0 ? new FrontendAddress(Number(random)) : addresses.Available;
                peer.Send(FrontendRequest.SetVringAddr, addresses);
                break;
            case 2:
                peer.Send(FrontendRequest.SetVringKick, (ulong)ring, kick.Descriptor);
                break;
            case 3:
                peer.Send(FrontendRequest.SetVringEnable, new VringState { Index = ring, Number = (uint)random.Next(2) });
                break;
            case 4 when random.Next(4) == 0:
                peer.Send(FrontendRequest.RemMemReg, Peer.Region(Peer.Guest, Peer.User, Peer.MemoryLength));
                break;
            case 5 when random.Next(4) == 0:
                peer.Send(FrontendRequest.AddMemReg, Peer.Region(Peer.Guest, Peer.User, Peer.MemoryLength), peer.Memory);
                break;
            case 6 when random.Next(8) == 0:
                Flood(peer, random);
                break;
            default:
                peer.Send(FrontendRequest.IotlbMsg, Message(random));
                break;
        }
    }

    // As many different ranges as the socket's buffer holds answers for, and more than the table holds.
    private static void Flood(Peer peer, Random random)
    {
        bool asks = peer.AsksForReplies;
        peer.AsksForReplies = false;
        for (ulong i = 0; i < 3000; i++)
        {
            peer.Send(FrontendRequest.IotlbMsg, new IotlbMessage
            {
                Iova = new Iova(i * 8192),
                Size = 4096,
                UserAddress = Peer.User + ((ulong)random.Next(255) * 4096),
                Permissions = (byte)random.Next(1, 4),
                Type = random.Next(8) == 0 ? IotlbMessageType.Invalidate : IotlbMessageType.Update,
            });
        }

        peer.AsksForReplies = asks;
    }

    private static IotlbMessage Message(Random random)
    {
        bool isWild = random.Next(12) == 0;
        return new IotlbMessage
        {
            Iova = new Iova(isWild ? Number(random) : Peer.User.Value + ((ulong)random.Next(256) * 4096)),
            Size = isWild ? Sizes[random.Next(Sizes.Length)] : (ulong)random.Next(1, 20) * 4096,
            UserAddress = isWild && random.Next(2) == 0
                ? new FrontendAddress(Number(random)) : Peer.User + ((ulong)random.Next(236) * 4096),
            Permissions = (byte)(isWild ? random.Next(256) : random.Next(1, 4)),
            Type = (IotlbMessageType)(isWild && random.Next(2) == 0 ? random.Next(256) : random.Next(2, 4)),
        };
    }

    private static ulong Number(Random random) => random.Next(4) switch
    {
        0 => 0,
        1 => ulong.MaxValue - (ulong)random.Next(9000),
        2 => Peer.User.Value + (ulong)random.Next((int)Peer.MemoryLength),
        _ => unchecked((ulong)random.NextInt64() * 3),
    };
}
