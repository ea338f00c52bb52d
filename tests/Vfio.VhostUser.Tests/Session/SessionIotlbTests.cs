using System.Runtime.InteropServices;
using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.VhostUser.Tests.Session;

[TestClass]
public sealed class SessionIotlbTests
{
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

    private static Peer Connect()
    {
        Peer peer = new Peer().Negotiate(VirtioFeatures.Version1 | VirtioFeatures.AccessPlatform).ShareMemory();
        Update(peer, new Iova(Peer.User.Value), Peer.MemoryLength, DmaAccess.ReadWrite);
        Update(peer, Readable, 0x1000, DmaAccess.Read);
        return peer;
    }

    private static void Update(Peer peer, Iova iova, ulong length, DmaAccess access) =>
        peer.Accepted(FrontendRequest.IotlbMsg, new IotlbMessage
        {
            Iova = iova,
            Size = length,
            UserAddress = Peer.User,
            Permissions = (byte)access,
            Type = IotlbMessageType.Update,
        });

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
