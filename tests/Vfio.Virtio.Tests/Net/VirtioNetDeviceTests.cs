using Vfio.Testing;

namespace Vfio.Virtio.Tests;

/// <summary>The network driver on a simulated device that keeps to the specification.</summary>
[TestClass]
public sealed class VirtioNetDeviceTests
{
    private static readonly bool[] MergedOrNot = [false, true];

    public static IEnumerable<object[]> Rings =>
        from features in RingPair.AllFeatures
        where !features.HasFlag(VirtioFeatures.RingIndirectDesc)
        from merges in MergedOrNot
        select new object[] { (ulong)features, merges };

    [TestMethod]
    [DynamicData(nameof(Rings))]
    public void Frames_go_both_ways(ulong features, bool merges)
    {
        var options = new VirtioNetOptions
        {
            QueueSize = 16,
            SpareBuffers = 5,
            MergeBuffers = merges,
            RingFeatures = (VirtioFeatures)features,
        };
        using var sim = new SimCard(options: options);
        using (VirtioNetDevice card = sim.Open())
        {
            Assert.AreEqual((VirtioFeatures)features | VirtioFeatures.AccessPlatform, card.Info.Features);
            Assert.AreEqual(merges, card.Info.NetFeatures.HasFlag(NetFeatures.MrgRxbuf));
            Assert.AreEqual("52:54:12:00:00:01", card.Info.Mac.ToString());
            Assert.AreEqual((1500, 1), (card.Info.Mtu, card.Info.MaxPieces));
            var frames = new NetBuffer[7];
            for (int i = 0; i < 500; i++)
            {
                byte[][] delivered = [.. Enumerable.Range(0, 1 + (i % 7)).Select(_ => SimCard.Frame(Random.Shared.Next(14, 1519)))];
                Array.ForEach(delivered, sim.Model.Deliver);
                int count = card.Receive(frames);
                Assert.AreEqual(delivered.Length, count);
                for (int f = 0; f < count; f++)
                {
                    Assert.IsTrue(frames[f].Span.SequenceEqual(delivered[f]), "in");
                    Assert.IsFalse(frames[f].Continues);
                }

                Assert.AreEqual(count, card.Send(frames.AsSpan(0, count)));
                Assert.HasCount(count, sim.Model.Sent);
                for (int f = 0; f < count; f++)
                {
                    Assert.IsTrue(sim.Model.Sent[f].AsSpan(0, 12).IndexOfAnyExcept((byte)0) < 0, "the header asks for nothing");
                    Assert.IsTrue(sim.Model.Sent[f].AsSpan(12).SequenceEqual(delivered[f]), "out");
                }

                sim.Model.Sent.Clear();
            }

            Assert.AreEqual((card.Counters.Received, card.Counters.ReceivedBytes), (card.Counters.Sent, card.Counters.SentBytes));
            Assert.AreEqual(0, card.Counters.Runts);
        }

        Assert.AreEqual(0, sim.Model.Status, "reset");
        sim.Unmap();
    }

    [TestMethod]
    [DataRow(false)]
    [DataRow(true)]
    public void Frames_larger_than_a_buffer_come_whole_and_go_on_whole(bool packed)
    {
        var options = new VirtioNetOptions
        {
            QueueSize = 64,
            BufferBytes = 128,
            RingFeatures = packed ? VirtioFeatures.RingPacked : VirtioFeatures.None,
        };
        using var sim = new SimCard(new SimVirtioNetOptions { IsLoop = true }, options);
        using VirtioNetDevice card = sim.Open();
        Assert.AreEqual(12, card.Info.MaxPieces);
        var frames = new NetBuffer[card.Info.MaxPieces];
        byte[][] delivered = [.. Enumerable.Range(0, 40).Select(i => SimCard.Frame(i % 3 == 0 ? 1500 : 60))];
        var received = new List<byte[]>();
        Array.ForEach(delivered, sim.Model.Deliver);
        sim.Model.Options.IsLoop = false;
        while (received.Count < delivered.Length)
        {
            int count = card.Receive(frames);
            Assert.AreNotEqual(0, count);
            Assert.IsFalse(frames[count - 1].Continues, "a part of a frame");
            var frame = new List<byte>();
            foreach (NetBuffer piece in frames.AsSpan(0, count))
            {
                frame.AddRange(piece.Span);
                if (!piece.Continues)
                {
                    received.Add([.. frame]);
                    frame.Clear();
                }
            }

            Assert.AreEqual(count, card.Send(frames.AsSpan(0, count)));
            sim.Model.Serve();
        }

        for (int i = 0; i < delivered.Length; i++)
        {
            CollectionAssert.AreEqual(delivered[i], received[i]);
            CollectionAssert.AreEqual(delivered[i], sim.Model.Sent[i][12..]);
        }
    }

    [TestMethod]
    public void A_slow_device_leaves_frames_with_the_caller_and_loses_none()
    {
        using var sim = new SimCard(
            new SimVirtioNetOptions { IsSilent = true, IsLoop = true }, new VirtioNetOptions { QueueSize = 8, SpareBuffers = 4 });
        using VirtioNetDevice card = sim.Open();
        var frames = new NetBuffer[20];
        Assert.AreEqual(12, card.Allocate(frames), "8 for the transmit queue, 4 to spare");
        for (int i = 0; i < 12; i++)
        {
            frames[i] = frames[i].WithLength(60 + i);
            frames[i].Span.Fill((byte)i);
        }

        Assert.AreEqual(8, card.Send(frames.AsSpan(0, 12)), "the queue holds no more");
        Assert.AreEqual(0, card.Send(frames.AsSpan(8, 4)));
        sim.Model.Serve();
        Assert.AreEqual(4, card.Send(frames.AsSpan(8, 4)));
        sim.Model.Serve();
        var back = new NetBuffer[20];
        int count = card.Receive(back);
        sim.Model.Serve();
        count += card.Receive(back.AsSpan(count));
        Assert.AreEqual(12, count);
        for (int i = 0; i < 12; i++)
        {
            Assert.AreEqual(60 + i, back[i].Length);
            Assert.IsTrue(back[i].Span.IndexOfAnyExcept((byte)i) < 0);
        }
    }

    [TestMethod]
    public void Frames_that_are_too_short_are_dropped_and_their_buffers_used_again()
    {
        using var sim = new SimCard(options: new VirtioNetOptions { QueueSize = 4, SpareBuffers = 1 });
        using VirtioNetDevice card = sim.Open();
        var frames = new NetBuffer[4];
        for (int i = 0; i < 50; i++)
        {
            sim.Model.Deliver(new byte[13]);
            Assert.AreEqual(0, card.Receive(frames));
        }

        sim.Model.Deliver(new byte[14]);
        Assert.AreEqual(1, card.Receive(frames));
        Assert.AreEqual((50, 1), (card.Counters.Runts, card.Counters.Received));
    }

    [TestMethod]
    public void A_buffer_is_given_away_once()
    {
        using var sim = new SimCard();
        using VirtioNetDevice card = sim.Open();
        using var other = new SimCard();
        using VirtioNetDevice otherCard = other.Open();
        var frames = new NetBuffer[4];
        Assert.AreEqual(4, card.Allocate(frames));
        Refused("has at least 14 bytes", () => card.Send([frames[0].WithLength(13)]));
        Refused("has no bytes", () => card.Send([frames[0]]));
        NetBuffer frame = frames[0].WithLength(60);
        Refused("goes on behind its last buffer", () => card.Send([frame.WithContinuation(true)]));
        Refused("the same buffer twice", () => card.Send([frame.WithContinuation(true), frame]));
        Refused("not one of this device's", () => otherCard.Send([frame]));
        Refused("not one of this device's", () => card.Send([default]));
        _ = Assert.ThrowsExactly<ArgumentOutOfRangeException>(() => frame.WithLength(frame.Capacity + 1));
        Assert.AreEqual(0, sim.Model.SentCount);
        Assert.AreEqual(1, card.Send([frame]));
        Refused("given away before", () => card.Send([frame]));
        Refused("given away before", () => card.Free([frame]));
        card.Free(frames.AsSpan(1));
        Refused("given away before", () => card.Free(frames.AsSpan(1, 1)));
        Assert.AreEqual(1, sim.Model.SentCount);

        static void Refused(string expected, Action action) =>
            StringAssert.Contains(Assert.ThrowsExactly<ArgumentException>(action).Message, expected);
    }

    [TestMethod]
    public void Link_is_what_the_device_says_now()
    {
        using var sim = new SimCard();
        using VirtioNetDevice card = sim.Open();
        Assert.IsTrue(card.IsLinkUp);
        sim.Model.IsLinkUp = false;
        Assert.IsFalse(card.IsLinkUp);
    }

    [TestMethod]
    public void Queues_are_as_long_as_the_device_has_them()
    {
        Check(VirtioFeatures.RingPacked, 3, 5);
        Check(VirtioFeatures.None, 2, 4);

        static void Check(VirtioFeatures features, int receive, int transmit)
        {
            using var sim = new SimCard(
                new SimVirtioNetOptions { QueueSizes = (3, 5) }, new VirtioNetOptions { RingFeatures = features });
            using VirtioNetDevice card = sim.Open();
            Assert.AreEqual((receive, transmit), (card.Info.ReceiveQueueSize, card.Info.TransmitQueueSize));
        }
    }

    [TestMethod]
    public void What_the_device_wrote_and_what_was_sent_is_told()
    {
        var wrote = new List<IovaRange>();
        var sent = new List<IovaRange>();
        using var sim = new SimCard(options: new VirtioNetOptions { QueueSize = 4, DeviceWrote = wrote.Add, DriverSent = sent.Add });
        using VirtioNetDevice card = sim.Open();
        sim.Model.Deliver(new byte[100]);
        var frames = new NetBuffer[1];
        Assert.AreEqual(1, card.Receive(frames));
        Assert.HasCount(2, wrote, "the frame with its header, and the ring");
        Assert.AreEqual(112ul, wrote[0].Length);
        Assert.IsTrue(wrote.All(sim.Range.Contains));
        wrote.Clear();
        Assert.AreEqual(1, card.Send(frames));
        Assert.AreEqual(0, card.CountUnsent());
        Assert.HasCount(1, wrote, "the transmit ring");
        Assert.HasCount(1, sent);
        Assert.AreEqual(112ul, sent[0].Length);
    }

    [TestMethod]
    [DataRow(false)]
    [DataRow(true)]
    public void Polling_allocates_nothing(bool packed)
    {
        const int Polls = 100_000;
        var options = new VirtioNetOptions { RingFeatures = packed ? VirtioFeatures.RingPacked : VirtioFeatures.RingEventIdx };
        using var sim = new SimCard(new SimVirtioNetOptions { MapsDoorbells = true, IsLoop = true }, options);
        sim.Model.KeepsSent = false;
        using VirtioNetDevice card = sim.Open();
        var frames = new NetBuffer[32];
        int count = card.Allocate(frames);
        for (int i = 0; i < count; i++)
        {
            frames[i] = frames[i].WithLength(64);
        }

        Assert.AreEqual(32, card.Send(frames));
        long allocated = 0;
        for (int i = 0; i < Polls; i++)
        {
            if (i % 64 == 0)
            {
                sim.Model.Serve();
            }

            long before = GC.GetAllocatedBytesForCurrentThread();
            count = card.Receive(frames);
            int sent = card.Send(frames.AsSpan(0, count));
            card.Free(frames.AsSpan(sent, count - sent));
            allocated += GC.GetAllocatedBytesForCurrentThread() - before;
        }

        Assert.AreEqual(0, allocated);
        Assert.IsGreaterThan(Polls / 4, card.Counters.Received, "frames went round meanwhile");
    }
}
