using System.Diagnostics;

namespace Vfio.Virtio.Tests;

/// <summary>What a poller relies on: no allocation, and no wake-up lost between two real threads.</summary>
[TestClass]
public sealed class DatapathTests
{
    public static IEnumerable<object[]> AllFeatures => RingPair.AllFeatures.Select(features => new object[] { (ulong)features });

    [TestMethod]
    [DynamicData(nameof(AllFeatures))]
    public void Polling_allocates_nothing(ulong features)
    {
        using var pair = new RingPair(64, (VirtioFeatures)features);
        var chains = new DescriptorChain[32];
        var segments = new HostSegment[256];
        var used = new UsedChain[32];
        var completions = new Completion[32];
        var chain = new DmaSegment[] { pair.Segment(0, 16, DeviceAccess.Read), pair.Segment(64, 64, DeviceAccess.Write) };
        long done = 0;
        for (int i = 0; i < 1_000; i++)
        {
            done += Turn();
        }

        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < 100_000; i++)
        {
            done += Turn();
        }

        Assert.AreEqual(0, GC.GetAllocatedBytesForCurrentThread() - before);
        Assert.IsGreaterThanOrEqualTo(100_000, done);

        int Turn()
        {
            for (int i = 0; i < 4 && pair.Driver.TryAdd(chain, out _); i++)
            {
            }

            _ = pair.Driver.Publish();
            int count = pair.Device.Peek(ref pair.Translator, chains, segments);
            for (int i = 0; i < count; i++)
            {
                used[i] = chains[i].Used(8);
            }

            pair.Device.Consume(chains.AsSpan(0, count));
            pair.Device.Complete(used.AsSpan(0, count));
            _ = pair.Device.Publish();
            _ = pair.Device.EnableNotifications();
            pair.Device.DisableNotifications();
            _ = pair.Driver.EnableNotifications();
            pair.Driver.DisableNotifications();
            return pair.Driver.Reap(completions);
        }
    }

    // Places in the ring and in the batch's buffer are counted up together; neither may run into the other where a batch lies across the
    // ring's end, and where the split layout's index comes back to 0.
    [TestMethod]
    [DataRow((ulong)VirtioFeatures.None, 64, DeviceAccess.Read, false)]
    [DataRow((ulong)VirtioFeatures.None, 64, DeviceAccess.Write, false)]
    [DataRow((ulong)VirtioFeatures.RingPacked, 50, DeviceAccess.Read, false)]
    [DataRow((ulong)VirtioFeatures.RingPacked, 50, DeviceAccess.Write, false)]
    [DataRow((ulong)VirtioFeatures.RingPacked, 600, DeviceAccess.Read, true)]
    public void Batches_across_the_ends_of_ring_page_and_index(ulong features, int size, DeviceAccess access, bool scattered)
    {
        bool isPacked = ((VirtioFeatures)features).HasFlag(VirtioFeatures.RingPacked);
        BufferUse use = access == DeviceAccess.Read ? BufferUse.OnlyReads : BufferUse.OnlyWrites;
        using var pair = new RingPair(size, (VirtioFeatures)features, scattered: scattered, use: use);
        var chains = new DescriptorChain[32];
        var segments = new HostSegment[32];
        var used = new UsedChain[32];
        var completions = new Completion[32];
        var ids = new ushort[32];
        int position = 0;
        // 7 has nothing in common with 64, 50, 600 (a page has 256) and 65536: batches lie across the ends in every way.
        for (int batch = 0; batch < 65536; batch++)
        {
            const int Count = 7;
            for (int i = 0; i < Count; i++)
            {
                Assert.IsTrue(pair.Driver.TryAdd([pair.Segment(i * 64, i + 1, access)], out ids[i]));
            }

            pair.Driver.Publish();
            Assert.AreEqual(Count, pair.Device.Peek(ref pair.Translator, chains, segments));
            for (int i = 0; i < Count; i++)
            {
                DescriptorChain chain = chains[i];
                Assert.AreEqual(
                    (ids[i], (position + i) % (isPacked ? size : 65536), 1, i, 1, access == DeviceAccess.Read ? 1 : 0),
                    (chain.Id, chain.Position, chain.Slots, chain.First, chain.Count, chain.ReadableCount));
                Assert.AreEqual(pair.Data.Address + (ulong)(i * 64), segments[i].Address);
                Assert.AreEqual(i + 1, (int)segments[i].Length);
                used[i] = chain.Used(0);
            }

            position += Count;
            Assert.AreEqual(position, pair.Translator.Data.Found, "translations counted");
            pair.Device.Consume(chains.AsSpan(0, Count));
            pair.Device.Complete(used.AsSpan(0, Count));
            pair.Device.Publish();
            Assert.AreEqual(Count, pair.Driver.Reap(completions));
        }
    }

    // The driver asks to be called at the next used chain. It sees that one early, without a call; the call comes with the rest.
    [TestMethod]
    [DataRow((ulong)VirtioFeatures.None)]
    [DataRow((ulong)VirtioFeatures.RingEventIdx)]
    [DataRow((ulong)VirtioFeatures.RingPacked)]
    [DataRow((ulong)(VirtioFeatures.RingPacked | VirtioFeatures.RingEventIdx))]
    public void Chains_revealed_early_are_seen_and_called_for_with_their_batch(ulong features)
    {
        // Not a multiple of a batch where the layout allows it: batches lie across the ring's end.
        bool isPacked = ((VirtioFeatures)features).HasFlag(VirtioFeatures.RingPacked);
        using var pair = new RingPair(isPacked ? 6 : 8, (VirtioFeatures)features);
        var chains = new DescriptorChain[4];
        var segments = new HostSegment[16];
        var completions = new Completion[8];
        DmaSegment[] buffer = [pair.Segment(0, 16, DeviceAccess.Write)];
        for (int round = 0; round < 5; round++)
        {
            for (int i = 0; i < 4; i++)
            {
                Assert.IsTrue(pair.Driver.TryAdd(buffer, out _));
            }

            pair.Driver.Publish();
            Assert.IsFalse(pair.Driver.EnableNotifications());
            Assert.AreEqual(4, pair.Device.Peek(ref pair.Translator, chains, segments));
            pair.Device.Consume(chains);
            pair.Device.Complete([chains[0].Used(1), chains[1].Used(1), chains[2].Used(1)]);
            Assert.AreEqual(0, pair.Driver.Reap(completions), "shown before its time");
            pair.Device.Reveal();
            Assert.AreEqual(3, pair.Driver.Reap(completions));
            pair.Device.Reveal();
            pair.Device.Complete([chains[3].Used(1)]);
            Assert.AreEqual(0, pair.Driver.Reap(completions), "shown before its time");
            Assert.IsTrue(pair.Device.Publish(), "the driver waits for the first of them");
            Assert.AreEqual(1, pair.Driver.Reap(completions));
            Assert.IsFalse(pair.Device.Publish());
        }
    }

    // Each side sleeps whenever it finds nothing, so that nearly every step passes through publish-and-look on one thread and
    // enable-and-look-again on the other. A missing fence on either loses a wake-up, and both sleep for ever.
    [TestMethod]
    [DataRow((ulong)VirtioFeatures.None)]
    [DataRow((ulong)VirtioFeatures.RingEventIdx)]
    [DataRow((ulong)VirtioFeatures.RingPacked)]
    [DataRow((ulong)(VirtioFeatures.RingPacked | VirtioFeatures.RingEventIdx))]
    public void No_wake_up_is_lost_between_two_threads(ulong features)
    {
        const int Rounds = 50_000;
        using var pair = new RingPair(4, (VirtioFeatures)features);
        using var kick = new SemaphoreSlim(0);
        using var call = new SemaphoreSlim(0);
        using var stop = new CancellationTokenSource(TimeSpan.FromSeconds(60));
        int served = 0;
        var device = new Thread(() => served = Serve(pair, kick, call, Rounds, stop.Token)) { Name = "device" };
        device.Start();
        int reaped = 0;
        int added = 0;
        var completions = new Completion[4];
        DmaSegment[] chain = [pair.Segment(0, 16, DeviceAccess.Write)];
        while (reaped < Rounds && !stop.IsCancellationRequested)
        {
            while (added < Rounds && pair.Driver.TryAdd(chain, out _))
            {
                added++;
                if (pair.Driver.Publish())
                {
                    kick.Release();
                }
            }

            int count = pair.Driver.Reap(completions);
            reaped += count;
            if (count != 0)
            {
                pair.Driver.DisableNotifications();
            }
            else if (!pair.Driver.EnableNotifications())
            {
                Sleep(call, stop.Token);
            }
        }

        device.Join();
        Assert.AreEqual(RingError.None, pair.Driver.Error);
        Assert.AreEqual(RingError.None, pair.Device.Error);
        Assert.AreEqual((Rounds, Rounds), (served, reaped), "a wake-up was lost");
    }

    private static int Serve(RingPair pair, SemaphoreSlim kick, SemaphoreSlim call, int rounds, CancellationToken stop)
    {
        var chains = new DescriptorChain[4];
        var segments = new HostSegment[16];
        int served = 0;
        while (served < rounds && !stop.IsCancellationRequested)
        {
            int count = pair.Device.Peek(ref pair.Translator, chains, segments);
            if (count == 0)
            {
                if (pair.Device.Error != RingError.None)
                {
                    break;
                }

                if (!pair.Device.EnableNotifications())
                {
                    Sleep(kick, stop);
                }

                continue;
            }

            pair.Device.DisableNotifications();
            foreach (ref readonly DescriptorChain chain in chains.AsSpan(0, count))
            {
                pair.Device.Consume(new ReadOnlySpan<DescriptorChain>(in chain));
                pair.Device.Complete([chain.Used(4)]);
                served++;
                if (pair.Device.Publish())
                {
                    call.Release();
                }
            }
        }

        return served;
    }

    private static void Sleep(SemaphoreSlim wake, CancellationToken stop)
    {
        long start = Stopwatch.GetTimestamp();
        while (!wake.Wait(0, CancellationToken.None))
        {
            if (stop.IsCancellationRequested)
            {
                return;
            }

            // Spins at first, so that the two threads meet; a sleeper in the kernel is too slow to race with.
            if (Stopwatch.GetElapsedTime(start).TotalMicroseconds > 50)
            {
                _ = Thread.Yield();
            }
        }
    }
}
