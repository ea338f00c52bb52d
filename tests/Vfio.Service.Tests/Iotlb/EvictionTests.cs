using Vfio.Testing.VhostUser;
using Vfio.VhostUser;
using Vfio.Virtio;

namespace Vfio.Service.Tests;

[TestClass]
public sealed class EvictionTests
{
    private const ulong Page = 4096;
    private const ulong Pages = 1600;
    private const int FrameBytes = 1000;

    private static readonly Iova Base = new(0x20_0000_0000);

    // Twice through more pages than there is room for: each is asked for again.
    [TestMethod]
    [DataRow(VirtioFeatures.Version1)]
    [DataRow(VirtioFeatures.Version1 | VirtioFeatures.RingPacked)]
    public void Frames_through_more_pages_than_the_IOTLB_holds_are_right_and_the_rings_stay(VirtioFeatures features)
    {
        using var backend = new LocalBackend(ForwardMode.Io, iotlbSize: NetPortOptions.MinIotlbSize);
        using var guest = new IotlbGuest(backend.Socket, features, 8 << 20, 64, hasIommu: true);
        for (ulong page = 0; page < Pages; page++)
        {
            guest.Map(IovaRange.Of(Base + (page * Page), Page), Place(page), page % 2 == 0 ? DmaAccess.Read : DmaAccess.Write);
        }

        for (ulong page = 0; page < 2 * Pages; page += 2)
        {
            RoundTrip(guest, page % Pages, (byte)(page % 251));
        }

        IotlbCounters counters = backend.Session.Iotlb;
        Assert.IsLessThanOrEqualTo(NetPortOptions.MinIotlbSize, counters.Entries);
        Assert.IsGreaterThanOrEqualTo((long)(Pages - NetPortOptions.MinIotlbSize), counters.Evicted);
        Assert.IsGreaterThan((long)Pages, guest.Frontend.Misses, "the second time found everything still there");

        // A ring that starts anew looks its pages up anew. Nothing used these entries since it started first.
        PortGuest.Until(() => backend.Session.Iotlb.Pending == 0, "not all was answered");
        long misses = guest.Frontend.Misses;
        for (int ring = 0; ring < 2; ring++)
        {
            guest.Frontend.Enable(ring, false);
            guest.Frontend.Enable(ring, true);
        }

        RoundTrip(guest, Pages - 2, 252);
        Assert.AreEqual(misses, guest.Frontend.Misses, "a ring's own pages were thrown out");
    }

    // Backwards: no two pages merge.
    private static ulong Place(ulong page) => (Pages - 1 - page) * Page;

    private static void RoundTrip(IotlbGuest guest, ulong page, byte seed)
    {
        PinnedBuffer source = guest.At(Base + (page * Page), Place(page), NetHeader.Bytes + FrameBytes);
        PinnedBuffer target = guest.At(Base + ((page + 1) * Page), Place(page + 1), NetHeader.Bytes + FrameBytes);
        source.Span[..NetHeader.Bytes].Clear();
        for (int i = 0; i < FrameBytes; i++)
        {
            source.Span[NetHeader.Bytes + i] = unchecked((byte)((i * 31) + seed));
        }

        target.Span.Clear();
        Assert.IsTrue(guest.Receive.TryAdd([new DmaSegment(target, DeviceAccess.Write)], out _));
        guest.Receive.Publish();
        Assert.IsTrue(guest.Transmit.TryAdd([new DmaSegment(source, DeviceAccess.Read)], out _));
        guest.Transmit.Publish();
        guest.Kick();
        var completion = new Completion[1];
        PortGuest.Until(() => guest.Receive.Reap(completion) == 1, "the frame did not come back");
        PortGuest.Until(() => guest.Transmit.Reap(completion) == 1, "the transmit buffer did not come back");
        Assert.IsTrue(source.Span[NetHeader.Bytes..].SequenceEqual(target.Span[NetHeader.Bytes..]));
    }
}
