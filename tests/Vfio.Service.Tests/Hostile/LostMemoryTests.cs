using System.Diagnostics;
using Vfio.Testing.VhostUser;
using Vfio.Virtio;

namespace Vfio.Service.Tests;

/// <summary>Guests whose memory goes away under a poller that is at work in it.</summary>
[TestClass]
public sealed class LostMemoryTests
{
    private const int RingSize = 256;

    [TestMethod]
    [DataRow(VirtioFeatures.Version1, false, 0ul)]
    [DataRow(VirtioFeatures.Version1 | VirtioFeatures.RingPacked, false, 0ul)]
    // The rings stay, buffers go.
    [DataRow(VirtioFeatures.Version1, false, IotlbGuest.RingBytes + 4096)]
    [DataRow(VirtioFeatures.Version1, true, 0ul)]
    // A ring in a view of its own.
    [DataRow(VirtioFeatures.Version1 | VirtioFeatures.RingPacked, true, 0ul)]
    public void A_guest_that_takes_its_memory_away_ends_its_own_session_and_no_other(
        VirtioFeatures features, bool hasIommu, ulong left)
    {
        using var other = new LocalBackend(ForwardMode.RxOnly);
        using var neighbour = new IotlbGuest(other.Socket, VirtioFeatures.Version1, 2 << 20, RingSize, hasIommu: false);
        for (int round = 0; round < 5; round++)
        {
            using var backend = new LocalBackend(ForwardMode.RxOnly);
            using var guest = new IotlbGuest(
                backend.Socket, features, 16 << 20, RingSize, hasIommu, scattersRings: hasIommu, canShrink: true);
            for (ulong page = 0; hasIommu && page < 8; page++)
            {
                guest.Map(IovaRange.Of(new Iova(0x20_0000_0000 + (page << 21)), 2 << 20), page << 21, DmaAccess.Read);
            }

            // Long frames, each in memory of its own: the poller is busy with them when they go.
            Add(guest, hasIommu);
            guest.Kick();
            guest.Region.Shrink(left);
            guest.Kick();
            backend.AwaitEnd();
            Assert.IsGreaterThan(0, backend.Session.Losses);
            Assert.IsTrue(backend.Log.Any(l => l.Contains("memory of the front-end was gone", StringComparison.Ordinal)));

            Assert.IsTrue(neighbour.Transmit.TryAdd([new DmaSegment(neighbour.Plain(0, 100), DeviceAccess.Read)], out _));
            neighbour.Transmit.Publish();
            neighbour.Kick();
            var completions = new Completion[1];
            long begin = Stopwatch.GetTimestamp();
            while (neighbour.Transmit.Reap(completions) == 0)
            {
                Assert.IsLessThan(60, Stopwatch.GetElapsedTime(begin).TotalSeconds, "the other guest stands still");
            }
        }

        Assert.AreEqual(0, other.Session.Losses);
    }

    private static void Add(IotlbGuest guest, bool hasIommu)
    {
        const int FrameBytes = 60_000;
        for (ulong i = 0; i < RingSize; i++)
        {
            ulong offset = i * 65536 % (16 << 20);
            PinnedBuffer buffer = hasIommu
                ? guest.At(new Iova(0x20_0000_0000 + offset), offset, FrameBytes) : guest.Plain(offset, FrameBytes);
            Assert.IsTrue(guest.Transmit.TryAdd([new DmaSegment(buffer, DeviceAccess.Read)], out _));
        }

        guest.Transmit.Publish();
    }
}
