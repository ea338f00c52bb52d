using System.Runtime.InteropServices;
using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.VhostUser.Tests.Net;

[TestClass]
public sealed class NetQueueTests
{
    private const VirtioFeatures Split = VirtioFeatures.Version1 | VirtioFeatures.RingIndirectDesc;
    private const VirtioFeatures Packed = Split | VirtioFeatures.RingPacked;
    private const VirtioFeatures Merged = (VirtioFeatures)NetFeatures.MrgRxbuf;

    public static IEnumerable<object[]> Layouts =>
    [
        [Split], [Packed], [Split | VirtioFeatures.InOrder], [Packed | VirtioFeatures.InOrder],
        [Split | VirtioFeatures.RingEventIdx], [Packed | VirtioFeatures.RingEventIdx],
        [Split & ~VirtioFeatures.RingIndirectDesc], [Packed & ~VirtioFeatures.RingIndirectDesc],
    ];

    [TestMethod]
    [DynamicData(nameof(Layouts))]
    public void A_frame_arrives_however_it_was_cut(VirtioFeatures features)
    {
        using var guest = new Guest();
        (DriverQueue sender, TransmitQueue transmit) = guest.Transmit(features);
        (DriverQueue taker, ReceiveQueue receive) = guest.Receive(features | Merged);
        var random = new Random(7);
        Span<Completion> completions = new Completion[64];
        foreach (int[] cuts in new int[][] { [], [12], [5], [12, 20], [1, 1, 10, 3], [12, 1000, 1000] })
        {
            foreach (int length in new[] { 14, 64, 1518, 9000 })
            {
                byte[] frame = new byte[length];
                random.NextBytes(frame);
                guest.Send(sender, frame, default, cuts);
                var buffers = new Dictionary<ushort, PinnedBuffer>();
                for (int room = 0; room < length + NetHeader.Bytes; room += 1536)
                {
                    guest.Offer(taker, 1536, buffers);
                }

                Assert.AreEqual(1, transmit.Dequeue(guest.Batch));
                Assert.AreEqual(1, sender.Reap(completions));
                Assert.AreEqual(0u, completions[0].Written);
                Assert.AreEqual(1, receive.Enqueue(guest.Batch));
                int count = taker.Reap(completions);
                Assert.AreEqual(buffers.Count, count);
                byte[] received = [.. completions[..count].ToArray().SelectMany(c => buffers[c.Id].Span[..(int)c.Written].ToArray())];
                Assert.AreEqual(count, MemoryMarshal.Read<NetHeader>(received).BufferCount);
                CollectionAssert.AreEqual(frame, received[NetHeader.Bytes..]);
            }
        }

        Assert.AreEqual(24, transmit.Counters.Frames);
        Assert.AreEqual(24, receive.Counters.Frames);
        Assert.AreEqual(0, transmit.Counters.Dropped + receive.Counters.Dropped);
    }

    // Full batches, which a driver sees in parts, of every length around the sizes that are copied in one way or another; in buffers
    // that hold each, and in such that only several hold.
    [TestMethod]
    [DynamicData(nameof(Layouts))]
    public void Batches_of_every_small_length_arrive_and_nothing_beside_them_is_written(VirtioFeatures features)
    {
        const byte Untouched = 0xCC;
        var completions = new Completion[256];
        var random = new Random(11);
        foreach (int room in new[] { 256, 50 })
        {
            using var guest = new Guest();
            (DriverQueue sender, TransmitQueue transmit) = guest.Transmit(features);
            (DriverQueue taker, ReceiveQueue receive) = guest.Receive(features | Merged);
            for (int length = Frame.MinLength; length < 200; length += FrameBatch.Capacity)
            {
                byte[][] frames = [.. Enumerable.Range(length, FrameBatch.Capacity).Select(n => new byte[n])];
                var buffers = new Dictionary<ushort, PinnedBuffer>();
                foreach (byte[] frame in frames)
                {
                    random.NextBytes(frame);
                    guest.Send(sender, frame);
                    for (int held = 0; held < frame.Length + NetHeader.Bytes; held += room)
                    {
                        guest.Offer(taker, room, buffers).Span.Fill(Untouched);
                    }
                }

                Assert.AreEqual(FrameBatch.Capacity, transmit.Dequeue(guest.Batch));
                transmit.Settle();
                Assert.AreEqual(FrameBatch.Capacity, sender.Reap(completions));
                Assert.AreEqual(FrameBatch.Capacity, receive.Enqueue(guest.Batch));
                var used = new Queue<Completion>(completions[..taker.Reap(completions)]);
                Assert.HasCount(buffers.Count, used);
                foreach (byte[] frame in frames)
                {
                    byte[] received = [];
                    do
                    {
                        Completion completion = used.Dequeue();
                        Span<byte> buffer = buffers[completion.Id].Span;
                        received = [.. received, .. buffer[..(int)completion.Written]];
                        Assert.AreEqual(-1, buffer[(int)completion.Written..].IndexOfAnyExcept(Untouched));
                    }
                    while (received.Length < frame.Length + NetHeader.Bytes);

                    Assert.AreEqual((received.Length + room - 1) / room, MemoryMarshal.Read<NetHeader>(received).BufferCount);
                    CollectionAssert.AreEqual(frame, received[NetHeader.Bytes..]);
                }
            }
        }
    }

    [TestMethod]
    [DataRow(Split)]
    [DataRow(Packed | VirtioFeatures.InOrder)]
    public void A_hundred_thousand_polls_allocate_nothing(VirtioFeatures features)
    {
        using var guest = new Guest();
        (DriverQueue sender, TransmitQueue transmit) = guest.Transmit(features);
        (DriverQueue taker, ReceiveQueue receive) = guest.Receive(features);
        DmaSegment[][] frames = [.. Enumerable.Range(0, 32).Select(_ => new[] { new DmaSegment(guest.Allocate(76), DeviceAccess.Read) })];
        DmaSegment[][] buffers = [.. Enumerable.Range(0, 32).Select(_ => new[] { new DmaSegment(guest.Allocate(1600), DeviceAccess.Write) })];
        var completions = new Completion[64];
        for (int warm = 0; warm < 1000; warm++)
        {
            Poll();
        }

        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int poll = 0; poll < 100_000; poll++)
        {
            Poll();
        }

        Assert.AreEqual(0, GC.GetAllocatedBytesForCurrentThread() - before);
        Assert.AreEqual(101_000 * 32L, receive.Counters.Frames);

        void Poll()
        {
            for (int i = 0; i < 32; i++)
            {
                sender.TryAdd(frames[i], out _);
                taker.TryAdd(buffers[i], out _);
            }

            sender.Publish();
            taker.Publish();
            transmit.Dequeue(guest.Batch);
            receive.Enqueue(guest.Batch);
            sender.Reap(completions);
            taker.Reap(completions);
        }
    }

    [TestMethod]
    [DynamicData(nameof(Layouts))]
    public void A_driver_that_sends_full_batches_is_shown_most_of_a_ring_at_a_time_and_nothing_stays_held_back(VirtioFeatures features)
    {
        using var guest = new Guest();
        (DriverQueue sender, TransmitQueue transmit) = guest.Transmit(features, size: 256);
        var completions = new Completion[256];
        Send(guest, sender, 7 * FrameBatch.Capacity);
        int[] shown = [.. Enumerable.Range(0, 7).Select(_ => Take(FrameBatch.Capacity))];
        CollectionAssert.AreEqual((int[])[0, 0, 0, 0, 0, 192, 0], shown);
        transmit.Settle();
        Assert.AreEqual(FrameBatch.Capacity, sender.Reap(completions));
        transmit.Settle();
        Assert.AreEqual(0, sender.Reap(completions));

        Send(guest, sender, FrameBatch.Capacity);
        Assert.AreEqual(0, Take(FrameBatch.Capacity));
        // More may come at any moment; for ever it does not wait.
        Assert.AreEqual(0, Take(0));
        int found = 0;
        Assert.IsTrue(SpinWait.SpinUntil(() => (found = Take(0)) != 0, TimeSpan.FromSeconds(30)));
        Assert.AreEqual(FrameBatch.Capacity, found);
        Assert.AreEqual(0, sender.Outstanding);

        // The next time it waits again.
        Assert.IsTrue(Enumerable.Range(0, 1000).Any(_ =>
        {
            Send(guest, sender, FrameBatch.Capacity);
            Assert.AreEqual(0, Take(FrameBatch.Capacity));
            bool waited = Take(0) == 0;
            transmit.Settle();
            sender.Reap(completions);
            return waited;
        }));

        int Take(int expected)
        {
            Dequeue(guest, transmit, expected);
            return sender.Reap(completions);
        }
    }

    [TestMethod]
    [DataRow(Split)]
    [DataRow(Packed)]
    public void Of_a_large_ring_no_more_than_256_descriptors_are_held_back(VirtioFeatures features)
    {
        using var guest = new Guest();
        (DriverQueue sender, TransmitQueue transmit) = guest.Transmit(features, size: 1024);
        var completions = new Completion[1024];
        Send(guest, sender, 8 * FrameBatch.Capacity);

        int[] shown = [.. Enumerable.Range(0, 8).Select(_ =>
        {
            Dequeue(guest, transmit, FrameBatch.Capacity);
            return sender.Reap(completions);
        })];
        CollectionAssert.AreEqual((int[])[0, 0, 0, 0, 0, 0, 0, 256], shown);
    }

    [TestMethod]
    [DataRow(Split)]
    [DataRow(Packed)]
    [DataRow(Split | VirtioFeatures.RingEventIdx)]
    [DataRow(Packed | VirtioFeatures.RingEventIdx)]
    public void A_driver_that_waits_is_called_once_for_all_that_was_held_back(VirtioFeatures features)
    {
        using var guest = new Guest();
        (DriverQueue sender, TransmitQueue device) = guest.Transmit(features, size: 256);
        using var call = new EventFd();
        TransmitQueue transmit = TransmitQueue.Create(device.Ring with { Call = new EventFdCall(call) }, new NetQueueCounters());
        // The first call of all comes in any case.
        Take(1);
        transmit.Settle();
        sender.Reap(new Completion[256]);
        long first = transmit.Counters.Calls;
        Assert.IsFalse(sender.EnableNotifications());

        Take(FrameBatch.Capacity);
        Take(FrameBatch.Capacity);
        Assert.AreEqual(first, transmit.Counters.Calls);
        transmit.Settle();
        Assert.AreEqual(first + 1, transmit.Counters.Calls);
        Assert.AreEqual(2 * FrameBatch.Capacity, sender.Reap(new Completion[256]));

        void Take(int count)
        {
            Send(guest, sender, count);
            Dequeue(guest, transmit, count);
        }
    }

    [TestMethod]
    [DynamicData(nameof(Layouts))]
    public void A_batch_that_is_not_full_is_shown_at_once_with_all_before_it(VirtioFeatures features)
    {
        using var guest = new Guest();
        (DriverQueue sender, TransmitQueue transmit) = guest.Transmit(features, size: 256);
        var completions = new Completion[256];
        Send(guest, sender, FrameBatch.Capacity + 1);

        Dequeue(guest, transmit, FrameBatch.Capacity);
        Assert.AreEqual(0, sender.Reap(completions));
        Assert.AreEqual(1, transmit.Dequeue(guest.Batch));
        Assert.AreEqual(FrameBatch.Capacity + 1, sender.Reap(completions));
    }

    // A driver whose descriptors are all in use waits for them: not the number of chains is what counts.
    [TestMethod]
    [DynamicData(nameof(Layouts))]
    public void Chains_of_several_descriptors_are_held_back_for_fewer_batches(VirtioFeatures features)
    {
        using var guest = new Guest();
        (DriverQueue sender, TransmitQueue transmit) = guest.Transmit(features, size: 256);
        var completions = new Completion[256];
        int[] shown = [.. Enumerable.Range(0, 2).Select(_ =>
        {
            for (int i = 0; i < FrameBatch.Capacity; i++)
            {
                guest.Send(sender, new byte[64], default, 12, 20);
            }

            Dequeue(guest, transmit, FrameBatch.Capacity);
            return sender.Reap(completions);
        })];
        CollectionAssert.AreEqual((int[])[0, 64], shown);
    }

    [TestMethod]
    [DynamicData(nameof(Layouts))]
    public void Before_a_kick_is_asked_for_nothing_is_held_back(VirtioFeatures features)
    {
        using var guest = new Guest();
        (DriverQueue sender, TransmitQueue transmit) = guest.Transmit(features, size: 256);
        Send(guest, sender, FrameBatch.Capacity);

        Assert.AreEqual(FrameBatch.Capacity, transmit.Dequeue(guest.Batch));
        Assert.AreEqual(0, sender.Reap(new Completion[64]));
        Assert.IsFalse(transmit.EnableNotifications());
        Assert.AreEqual(FrameBatch.Capacity, sender.Reap(new Completion[64]));
    }

    // What an earlier batch held back is shown by the next call whatever that finds, also if the ring was disabled meanwhile.
    [TestMethod]
    [DataRow(false)]
    [DataRow(true)]
    public void What_a_batch_held_back_is_shown_when_the_ring_breaks_behind_it(bool discards)
    {
        using var guest = new Guest();
        (DriverQueue sender, TransmitQueue transmit) = guest.Transmit(Packed, size: 256);
        Send(guest, sender, FrameBatch.Capacity);

        PinnedBuffer outside = guest.Allocate(64) with { Iova = new Iova(0x7000_0000_0000) };
        Assert.IsTrue(sender.TryAdd([new DmaSegment(outside, DeviceAccess.Read)], out _));
        sender.Publish();
        Dequeue(guest, transmit, FrameBatch.Capacity);
        Assert.AreEqual(0, sender.Reap(new Completion[64]));
        Assert.AreEqual(0, discards ? transmit.Discard() : transmit.Dequeue(guest.Batch));
        Assert.AreNotEqual(RingError.None, transmit.Error);
        Assert.AreEqual(FrameBatch.Capacity, sender.Reap(new Completion[64]));
    }

    [TestMethod]
    [DataRow(Split, 256, true)]
    [DataRow(Packed, 256, true)]
    [DataRow(Split, 64, false)]
    [DataRow(Packed, 64, false)]
    public void A_ring_whose_writes_are_logged_and_a_small_one_show_every_batch(VirtioFeatures features, int size, bool logs)
    {
        using var guest = new Guest();
        using FileDescriptor file = MemoryFile.Create("log", 1 << 20);
        using DirtyLog? log = logs ? DirtyLog.Map(file, default, 1 << 20) : null;
        (DriverQueue sender, TransmitQueue transmit) = guest.Transmit(features, size, log);
        for (int batch = 0; batch < 3; batch++)
        {
            Send(guest, sender, FrameBatch.Capacity + 1);

            Dequeue(guest, transmit, FrameBatch.Capacity);
            Assert.AreEqual(FrameBatch.Capacity, sender.Reap(new Completion[64]));
            Dequeue(guest, transmit, 1);
            Assert.AreEqual(1, sender.Reap(new Completion[64]));
        }
    }

    [TestMethod]
    public void What_is_no_frame_is_dropped_and_counted_and_its_buffer_given_back()
    {
        using var guest = new Guest();
        (DriverQueue sender, TransmitQueue transmit) = guest.Transmit(Split);
        guest.Send(sender, new byte[13]);
        guest.Send(sender, []);
        guest.Send(sender, new byte[Frame.MaxLength + 1]);
        guest.Send(sender, new byte[64]);
        Assert.AreEqual(4, transmit.Dequeue(guest.Batch));
        Assert.AreEqual(1, guest.Batch.Count);
        Assert.AreEqual(3, transmit.Counters.DroppedLength);
        Assert.AreEqual(4, sender.Reap(new Completion[8]));
        Assert.AreEqual(RingError.None, transmit.Error);
    }

    [TestMethod]
    public void A_frame_larger_than_the_drivers_buffer_is_dropped_and_the_buffer_kept_for_the_next()
    {
        using var guest = new Guest();
        (DriverQueue taker, ReceiveQueue receive) = guest.Receive(Split);
        var buffers = new Dictionary<ushort, PinnedBuffer>();
        guest.Offer(taker, 256, buffers);
        guest.Batch.Add(300);
        guest.Batch.Add(100);
        Assert.AreEqual(2, receive.Enqueue(guest.Batch));
        Assert.AreEqual(1, receive.Counters.DroppedTooLarge);
        var completions = new Completion[4];
        Assert.AreEqual(1, taker.Reap(completions));
        Assert.AreEqual(112u, completions[0].Written);
    }

    [TestMethod]
    [DataRow(Split & ~VirtioFeatures.RingIndirectDesc)]
    [DataRow(Packed & ~VirtioFeatures.RingIndirectDesc)]
    [DataRow(Split | Merged)]
    [DataRow(Packed | Merged)]
    public void A_buffer_that_may_only_be_read_breaks_a_receive_ring(VirtioFeatures features)
    {
        foreach (int readable in new[] { 1, 2 })
        {
            using var guest = new Guest();
            (DriverQueue taker, ReceiveQueue receive) = guest.Receive(features);
            var buffers = new Dictionary<ushort, PinnedBuffer>();
            guest.Offer(taker, 1600, buffers);
            PinnedBuffer forbidden = guest.Allocate(1600);
            DmaSegment[] chain = [new DmaSegment(forbidden, DeviceAccess.Read), new DmaSegment(guest.Allocate(1600), DeviceAccess.Write)];
            Assert.IsTrue(taker.TryAdd(chain.AsSpan(0, readable), out _));
            taker.Publish();
            guest.Batch.Add(64).Span.Fill(1);
            guest.Batch.Add(64).Span.Fill(2);

            Assert.AreEqual(1, receive.Enqueue(guest.Batch));
            Assert.AreEqual(0, receive.Enqueue(guest.Batch));
            Assert.AreEqual(RingError.NotWritable, receive.Error);
            Assert.AreEqual(1, receive.ErrorPosition);
            Assert.AreEqual(0, receive.Counters.Dropped);
            Assert.AreEqual(1, taker.Reap(new Completion[4]));
            Assert.AreEqual(-1, forbidden.Span.IndexOfAnyExcept((byte)0));
            Assert.AreEqual(0, receive.Counters.Broken);
            Assert.IsTrue(receive.TryReport());
            Assert.IsFalse(receive.TryReport());
            Assert.AreEqual(1, receive.Counters.BrokenBy(RingError.NotWritable));
            Assert.AreEqual(1, receive.Counters.Broken);
        }
    }

    [TestMethod]
    [DataRow(Split, false)]
    [DataRow(Split & ~VirtioFeatures.RingIndirectDesc, false)]
    [DataRow(Packed & ~VirtioFeatures.RingIndirectDesc, false)]
    // Where DPDK's driver leaves the flag.
    [DataRow(Packed, true)]
    public void A_buffer_that_may_only_be_written_breaks_a_transmit_ring(VirtioFeatures features, bool isInTable)
    {
        foreach (bool isAlone in new[] { true, false })
        {
            using var guest = new Guest();
            (DriverQueue sender, TransmitQueue transmit) = guest.Transmit(features);
            guest.Send(sender, new byte[64]);
            PinnedBuffer header = guest.Allocate(NetHeader.Bytes);
            PinnedBuffer frame = guest.Allocate(NetHeader.Bytes + 64);
            frame.Span.Fill(7);
            DmaSegment[] chain = [new DmaSegment(header, DeviceAccess.Read), new DmaSegment(frame, DeviceAccess.Write)];
            Assert.IsTrue(sender.TryAdd(chain.AsSpan(isAlone ? 1 : 0), out _));
            sender.Publish();

            // A chain of one descriptor needs no table.
            bool isTaken = isInTable && !isAlone;
            Assert.AreEqual(isTaken ? 2 : 1, transmit.Dequeue(guest.Batch));
            Assert.AreEqual(isTaken ? RingError.None : RingError.NotReadable, transmit.Error);
            if (isTaken)
            {
                Assert.AreEqual(-1, guest.Batch.Frames[1].Span.IndexOfAnyExcept((byte)7));
                Assert.AreEqual(frame.Length, guest.Batch.Frames[1].Length);
            }
        }
    }

    [TestMethod]
    public void A_driver_that_was_told_an_mtu_is_given_no_frame_beyond_it()
    {
        const VirtioFeatures Told = Split | (VirtioFeatures)(NetFeatures.Mtu | NetFeatures.GuestCsum | NetFeatures.GuestTso4);
        Assert.AreEqual((2, 2), Given(Told));
        Assert.AreEqual((4, 0), Given(Split));

        static (int Given, long Dropped) Given(VirtioFeatures features)
        {
            using var guest = new Guest();
            (DriverQueue taker, ReceiveQueue receive) = guest.Receive(features);
            receive.SetMtu(1500);
            var buffers = new Dictionary<ushort, PinnedBuffer>();
            for (int i = 0; i < 4; i++)
            {
                guest.Offer(taker, 2048, buffers);
            }

            guest.Batch.Add(1514);
            guest.Batch.Add(1515);
            // IEEE 802.1Q: two tags before the type.
            Frame tagged = guest.Batch.Add(1522);
            (tagged.Span[12], tagged.Span[13], tagged.Span[16]) = (0x88, 0xA8, 0x81);
            Frame longer = guest.Batch.Add(1523);
            (longer.Span[12], longer.Span[13], longer.Span[16]) = (0x88, 0xA8, 0x81);
            Assert.AreEqual(4, receive.Enqueue(guest.Batch));
            return (taker.Reap(new Completion[8]), receive.Counters.DroppedMtu);
        }
    }

    [TestMethod]
    public void Frames_that_the_driver_cuts_itself_may_be_longer_than_its_mtu()
    {
        const VirtioFeatures Cuts = (VirtioFeatures)(NetFeatures.GuestCsum | NetFeatures.GuestTso4 | NetFeatures.Csum | NetFeatures.HostTso4);
        using var guest = new Guest();
        (DriverQueue sender, TransmitQueue transmit) = guest.Transmit(Split | Cuts);
        (DriverQueue taker, ReceiveQueue receive) = guest.Receive(Split | Cuts | (VirtioFeatures)NetFeatures.Mtu);
        receive.SetMtu(1500);
        guest.Offer(taker, 4096, []);
        guest.Send(sender, new byte[3000], new NetHeader
        {
            Flags = 1,
            ChecksumStart = 34,
            ChecksumOffset = 16,
            GsoType = NetHeader.GsoTcp4,
            GsoSize = 1400,
            HeaderLength = 54,
        });
        Assert.AreEqual(1, transmit.Dequeue(guest.Batch));
        Assert.AreEqual(1, receive.Enqueue(guest.Batch));
        Assert.AreEqual(1, receive.Counters.Frames);
        Assert.AreEqual(0, receive.Counters.DroppedMtu);
    }

    [TestMethod]
    public void Without_buffers_frames_stay_in_the_batch()
    {
        using var guest = new Guest();
        (DriverQueue taker, ReceiveQueue receive) = guest.Receive(Packed | Merged);
        guest.Batch.Add(3000);
        Assert.AreEqual(0, receive.Enqueue(guest.Batch));
        var buffers = new Dictionary<ushort, PinnedBuffer>();
        guest.Offer(taker, 2048, buffers);
        Assert.AreEqual(0, receive.Enqueue(guest.Batch));
        guest.Offer(taker, 2048, buffers);
        Assert.AreEqual(1, receive.Enqueue(guest.Batch));
        Assert.AreEqual(2, taker.Reap(new Completion[4]));
    }

    [TestMethod]
    public void Offloads_pass_unchanged_to_a_driver_that_takes_them_and_are_done_or_dropped_for_another()
    {
        const VirtioFeatures Sends = Split | (VirtioFeatures)(NetFeatures.Csum | NetFeatures.HostTso4);
        const VirtioFeatures Takes = Split | (VirtioFeatures)(NetFeatures.GuestCsum | NetFeatures.GuestTso4);
        byte[] frame = new byte[100];
        new Random(3).NextBytes(frame);
        var unfinished = new NetHeader { Flags = 1, ChecksumStart = 34, ChecksumOffset = 16 };
        NetHeader segments = unfinished with { GsoType = NetHeader.GsoTcp4, GsoSize = 50, HeaderLength = 54 };

        NetHeader passed = Received(Takes, segments, out byte[] same, out _);
        Assert.AreEqual(segments with { BufferCount = 1 }, passed);
        CollectionAssert.AreEqual(frame, same);

        NetHeader finished = Received(Split, unfinished, out byte[] summed, out _);
        Assert.AreEqual(new NetHeader { BufferCount = 1 }, finished);
        Assert.AreEqual(0xFFFF, OnesComplementSum(frame.AsSpan(34), 16, summed.AsSpan(34)));

        Received(Split, segments, out byte[] none, out NetQueueCounters counters);
        Assert.IsEmpty(none);
        Assert.AreEqual(1, counters.DroppedOffload);

        NetHeader Received(VirtioFeatures target, NetHeader header, out byte[] bytes, out NetQueueCounters counters)
        {
            using var guest = new Guest();
            (DriverQueue sender, TransmitQueue transmit) = guest.Transmit(Sends);
            (DriverQueue taker, ReceiveQueue receive) = guest.Receive(target);
            var buffers = new Dictionary<ushort, PinnedBuffer>();
            PinnedBuffer buffer = guest.Offer(taker, 256, buffers);
            guest.Send(sender, frame, header);
            transmit.Dequeue(guest.Batch);
            receive.Enqueue(guest.Batch);
            counters = receive.Counters;
            bytes = taker.Reap(new Completion[2]) == 0 ? [] : buffer.Span[NetHeader.Bytes..(NetHeader.Bytes + frame.Length)].ToArray();
            return bytes.Length == 0 ? default : MemoryMarshal.Read<NetHeader>(buffer.Span);
        }
    }

    [TestMethod]
    public void A_header_that_points_outside_its_frame_is_dropped()
    {
        const VirtioFeatures Sends = Split | (VirtioFeatures)NetFeatures.Csum;
        using var guest = new Guest();
        (DriverQueue sender, TransmitQueue transmit) = guest.Transmit(Sends);
        guest.Send(sender, new byte[60], new NetHeader { Flags = 1, ChecksumStart = 59, ChecksumOffset = 0 });
        guest.Send(sender, new byte[60], new NetHeader { Flags = 1, ChecksumStart = 0xFFFF, ChecksumOffset = 0xFFFF });
        guest.Send(sender, new byte[60], new NetHeader { GsoType = 3 });
        guest.Send(sender, new byte[60], new NetHeader { GsoType = NetHeader.GsoTcp4, Flags = 1, ChecksumStart = 34, ChecksumOffset = 16 });
        Assert.AreEqual(4, transmit.Dequeue(guest.Batch));
        Assert.AreEqual(0, guest.Batch.Count);
        Assert.AreEqual(4, transmit.Counters.DroppedHeader);
    }

    [TestMethod]
    [DataRow(Split)]
    [DataRow(Packed)]
    public void Exactly_the_pages_that_were_written_are_logged(VirtioFeatures features)
    {
        using var guest = new Guest();
        using FileDescriptor file = MemoryFile.Create("log", 1 << 20);
        using var seen = MappedMemory.Map(file, 0, 1 << 20, writable: true);
        using var log = DirtyLog.Map(file, default, 1 << 20);
        (DriverQueue taker, ReceiveQueue receive) = guest.Receive(features | Merged, log: log);
        PinnedBuffer gap = guest.Allocate(3 * 4096);
        var buffers = new Dictionary<ushort, PinnedBuffer>();
        for (int i = 0; i < 6; i++)
        {
            guest.Offer(taker, 2048, buffers);
        }

        guest.Allocate(8192);
        guest.Batch.Add(9000);
        Assert.AreEqual(1, receive.Enqueue(guest.Batch));
        var completions = new Completion[8];
        int count = taker.Reap(completions);
        var expected = new HashSet<ulong>();
        foreach (Completion completion in completions[..count])
        {
            Mark(Guest.AddressOf(buffers[completion.Id]).Value, completion.Written);
        }

        Mark(taker.DeviceArea.Value, RingAddresses.DeviceBytes(256, features));
        if (features.HasFlag(VirtioFeatures.RingPacked))
        {
            Mark(taker.DescriptorArea.Value, RingAddresses.DescriptorBytes(256));
        }

        Assert.IsTrue(expected.SetEquals(Bits(seen)), $"{string.Join(' ', expected)} / {string.Join(' ', Bits(seen))}");
        Assert.DoesNotContain(gap.Iova.Value / DirtyLog.PageSize + 1, expected);

        void Mark(ulong address, uint length)
        {
            for (ulong page = address / DirtyLog.PageSize; page <= (address + length - 1) / DirtyLog.PageSize; page++)
            {
                expected.Add(page);
            }
        }
    }

    private static unsafe HashSet<ulong> Bits(MappedMemory log)
    {
        var bits = new HashSet<ulong>();
        for (ulong i = 0; i < log.Length * 8; i++)
        {
            if ((((byte*)log.Address)[i / 8] & (1 << (int)(i % 8))) != 0)
            {
                bits.Add(i);
            }
        }

        return bits;
    }

    private static void Send(Guest guest, DriverQueue sender, int count)
    {
        for (int i = 0; i < count; i++)
        {
            guest.Send(sender, new byte[64]);
        }
    }

    private static void Dequeue(Guest guest, TransmitQueue transmit, int expected)
    {
        Assert.AreEqual(expected, transmit.Dequeue(guest.Batch));
        guest.Batch.Clear();
    }

    // With the finished checksum in place of what stood there, the sum over the data is all ones.
    private static int OnesComplementSum(ReadOnlySpan<byte> original, int field, ReadOnlySpan<byte> finished)
    {
        uint sum = 0;
        for (int i = 0; i < original.Length; i += 2)
        {
            sum += (uint)((original[i] << 8) | (i + 1 < original.Length ? original[i + 1] : 0));
        }

        sum += (uint)((finished[field] << 8) | finished[field + 1]);
        while (sum >> 16 != 0)
        {
            sum = (sum & 0xFFFF) + (sum >> 16);
        }

        return (int)sum;
    }
}
