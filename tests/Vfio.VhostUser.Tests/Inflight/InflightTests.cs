using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Vfio.Linux;
using Vfio.VhostUser.Tests.Net;
using Vfio.Virtio;

namespace Vfio.VhostUser.Tests.Inflight;

/// <summary>A device dies in the middle of a batch; another takes over with nothing but the ring and the record.</summary>
[TestClass]
public sealed class InflightTests
{
    private const VirtioFeatures Split = VirtioFeatures.Version1 | VirtioFeatures.RingIndirectDesc;
    private const VirtioFeatures Packed = Split | VirtioFeatures.RingPacked;
    private const VirtioFeatures PackedChains = VirtioFeatures.Version1 | VirtioFeatures.RingPacked;
    private const int Size = 64;
    private static readonly int[] LengthsOfLife = [0, 30, 61];
    private static readonly VirtioFeatures[] Layouts = [Split, Packed, PackedChains];

    public enum Death
    {
        AfterTake,
        BeforePublish,
        AfterPublish,
        AfterCommit,
    }

    public static IEnumerable<object[]> Cases =>
        from features in Layouts
        from death in Enum.GetValues<Death>()
        from before in LengthsOfLife
        select new object[] { features, death, before };

    // Found by tools/fuzz: nothing is needed for no rings, so nothing was too small, and mapping nothing ended the process.
    [TestMethod]
    public void A_buffer_for_no_rings_is_refused()
    {
        var description = new InflightDescription { QueueCount = 1, QueueSize = 8 };
        using FileDescriptor file = InflightBuffer.Create(ref description, packed: false, mostQueues: 1);
        description.QueueCount = 0;
        Assert.ThrowsExactly<VhostUserProtocolException>(() => InflightBuffer.Map(file, description, packed: false));
    }

    [TestMethod]
    public void Sizes_are_those_of_the_specification()
    {
        Assert.AreEqual(16, Unsafe.SizeOf<SplitInflight.Header>());
        Assert.AreEqual(16, Unsafe.SizeOf<SplitInflight.Entry>());
        Assert.AreEqual(32, Unsafe.SizeOf<PackedInflight.Header>());
        Assert.AreEqual(32, Unsafe.SizeOf<PackedInflight.Entry>());
        Assert.AreEqual(12, Unsafe.SizeOf<MessageHeader>());
        Assert.AreEqual(40, Unsafe.SizeOf<VringAddresses>());
        Assert.AreEqual(32, Unsafe.SizeOf<RegionDescription>());
        Assert.AreEqual(40, Unsafe.SizeOf<SingleRegion>());
        Assert.AreEqual(24, Unsafe.SizeOf<InflightDescription>());
        Assert.AreEqual(32, Unsafe.SizeOf<IotlbMessage>());
    }

    [TestMethod]
    [DynamicData(nameof(Cases))]
    public void Every_frame_arrives_and_none_that_was_used_arrives_again(VirtioFeatures features, Death death, int before)
    {
        using var guest = new Guest();
        using var record = new Record(features);
        (DriverQueue driver, TransmitQueue device) = guest.Transmit(features, Size);
        bool packed = features.HasFlag(VirtioFeatures.RingPacked);
        RingAddresses ring = device.Ring.Addresses;
        var start = packed ? new RingPosition(0x8000, 0x8000) : default;
        var reaped = new Completion[Size];

        // A life without an accident first, so that indices and wrap counters are somewhere.
        InflightRecord first = record.Open();
        TransmitQueue life = TransmitQueue.Create(
            device.Ring with { Inflight = first, Position = first.Recover(ring, start, out _) }, new NetQueueCounters());
        for (int i = 0; i < before; i++)
        {
            guest.Send(driver, Frame(i), default, 12);
            Assert.AreEqual(1, life.Dequeue(guest.Batch));
            guest.Batch.Clear();
            Assert.AreEqual(1, driver.Reap(reaped));
        }

        for (int i = 0; i < 5; i++)
        {
            guest.Send(driver, Frame(100 + i), default, 12);
        }

        Die(life.Position, death);
        int alreadyUsed = death >= Death.AfterPublish ? 3 : 0;
        Assert.AreEqual(alreadyUsed, driver.Reap(reaped));

        InflightRecord second = record.Open();
        RingPosition position = second.Recover(ring, start, out string? doubt);
        Assert.IsNull(doubt);
        TransmitQueue successor = TransmitQueue.Create(device.Ring with { Inflight = second, Position = position }, new NetQueueCounters());
        var seen = new List<byte>();
        while (successor.Dequeue(guest.Batch) != 0)
        {
            seen.AddRange(guest.Batch.Frames.ToArray().Select(f => f.Span[0]));
            guest.Batch.Clear();
        }

        Assert.AreEqual(RingError.None, successor.Error);
        CollectionAssert.AreEqual(Enumerable.Range(100 + alreadyUsed, 5 - alreadyUsed).Select(i => (byte)i).ToArray(), seen);
        int left = 0;
        for (int n = driver.Reap(reaped); n != 0; n = driver.Reap(reaped))
        {
            left += n;
        }

        Assert.AreEqual(5 - alreadyUsed, left);
        Assert.AreEqual(RingError.None, driver.Error);
        Assert.AreEqual(0, driver.Outstanding);

        void Die(RingPosition at, Death when)
        {
            DeviceQueue queue = DeviceQueue.Create(Size, ring, features, at);
            var translator = new GuestMemoryTranslator(guest.Memory);
            var chains = new DescriptorChain[3];
            Assert.AreEqual(3, queue.Peek(ref translator, chains, new HostSegment[64]));
            UsedChain[] used = [.. chains.Select(c => c.Used(0))];
            first.Take(queue, chains);
            if (when == Death.AfterTake)
            {
                return;
            }

            queue.Consume(chains);
            queue.Complete(used);
            first.Use(used);
            if (when == Death.BeforePublish)
            {
                return;
            }

            queue.Publish();
            if (when == Death.AfterCommit)
            {
                first.Commit(used);
            }
        }
    }

    [TestMethod]
    [DataRow(Split)]
    [DataRow(Packed)]
    public void A_record_of_nonsense_harms_nobody(VirtioFeatures features)
    {
        int seed = Random.Shared.Next();
        Console.WriteLine($"seed {seed}");
        var random = new Random(seed);
        for (int run = 0; run < 40; run++)
        {
            using var guest = new Guest();
            using var record = new Record(features);
            (DriverQueue driver, TransmitQueue device) = guest.Transmit(features, Size);
            record.Scribble(random, device.Ring.Addresses);
            for (int i = 0; i < 8; i++)
            {
                guest.Send(driver, Frame(i));
            }

            InflightRecord read = record.Open();
            RingPosition start = features.HasFlag(VirtioFeatures.RingPacked) ? new RingPosition(0x8000, 0x8000) : default;
            RingPosition position = read.Recover(device.Ring.Addresses, start, out _);
            TransmitQueue queue = TransmitQueue.Create(device.Ring with { Inflight = read, Position = position }, new NetQueueCounters());
            for (int poll = 0; poll < 100 && queue.Dequeue(guest.Batch) != 0; poll++)
            {
                guest.Batch.Clear();
            }
        }
    }

    // A busy ring holds used buffers back otherwise, and the record knows one batch at a time.
    [TestMethod]
    [DataRow(Split)]
    [DataRow(Packed)]
    public void A_busy_device_with_a_record_shows_and_commits_every_batch(VirtioFeatures features)
    {
        const int Large = 256;
        using var guest = new Guest();
        using var record = new Record(features, Large);
        (DriverQueue driver, TransmitQueue device) = guest.Transmit(features, Large);
        RingAddresses ring = device.Ring.Addresses;
        RingPosition start = RingPosition.Start(features);
        InflightRecord inflight = record.Open();
        TransmitQueue busy = TransmitQueue.Create(
            device.Ring with { Inflight = inflight, Position = inflight.Recover(ring, start, out _) }, new NetQueueCounters());
        for (int i = 0; i < 3 * FrameBatch.Capacity; i++)
        {
            guest.Send(driver, Frame(i));
        }

        for (int batch = 0; batch < 2; batch++)
        {
            Assert.AreEqual(FrameBatch.Capacity, busy.Dequeue(guest.Batch));
            guest.Batch.Clear();
            Assert.AreEqual(FrameBatch.Capacity, driver.Reap(new Completion[Large]));
        }

        InflightRecord successor = record.Open();
        Assert.AreEqual(busy.Position, successor.Recover(ring, start, out string? doubt));
        Assert.IsNull(doubt);
        Assert.IsFalse(successor.HasPending);
    }

    [TestMethod]
    [DataRow(Split)]
    [DataRow(Packed)]
    public void Behind_an_iommu_the_front_end_is_asked_where_what_was_left_lies(VirtioFeatures features)
    {
        using var guest = new Guest();
        using var record = new Record(features);
        (DriverQueue driver, TransmitQueue device) = guest.Transmit(features, Size);
        RingAddresses ring = device.Ring.Addresses;
        RingPosition start = RingPosition.Start(features);
        guest.Send(driver, Frame(7));
        InflightRecord first = record.Open();
        first.Recover(ring, start, out _);
        var dead = DeviceQueue.Create(Size, ring, features, use: BufferUse.OnlyReads);
        var translator = new GuestMemoryTranslator(guest.Memory);
        var chains = new DescriptorChain[1];
        Assert.AreEqual(1, dead.Peek(ref translator, chains, new HostSegment[8]));
        first.Take(dead, chains);

        InflightRecord second = record.Open();
        var iotlb = new DeviceIotlb();
        var asked = new List<IotlbQuestion>();
        using var view = new IotlbView(iotlb, questions =>
        {
            asked.AddRange(questions);
            return questions.Length;
        });
        var successor = TransmitQueue.Create(
            device.Ring with { Inflight = second, Position = second.Recover(ring, start, out _), Iotlb = view }, new NetQueueCounters());
        Assert.AreEqual(0, successor.Dequeue(guest.Batch));
        Assert.IsNotEmpty(asked);
        Assert.IsTrue(successor.LacksTranslation);
        Assert.IsTrue(successor.EnableNotifications(), "no kick tells that what was left can be taken");
        // All of the guest's memory, which lies together on both sides.
        ulong descriptors = driver.DescriptorArea.Value;
        iotlb.Update(new IotlbRange(
            IovaRange.Of(new Iova(descriptors), 1 << 20), ring.Descriptors, DmaAccess.ReadWrite));
        Assert.AreEqual(1, successor.Dequeue(guest.Batch));
        Assert.AreEqual(7, guest.Batch.Frames[0].Span[0]);
        Assert.IsFalse(successor.EnableNotifications());
    }

    [TestMethod]
    public void Receive_buffers_left_by_a_dead_device_go_back_unused()
    {
        using var guest = new Guest();
        using var record = new Record(Split);
        (DriverQueue driver, ReceiveQueue device) = guest.Receive(Split, Size);
        var buffers = new Dictionary<ushort, PinnedBuffer>();
        for (int i = 0; i < 4; i++)
        {
            guest.Offer(driver, 256, buffers);
        }

        InflightRecord first = record.Open();
        first.Recover(device.Ring.Addresses, default, out _);
        var dead = DeviceQueue.Create(Size, device.Ring.Addresses, Split);
        var translator = new GuestMemoryTranslator(guest.Memory);
        var chains = new DescriptorChain[2];
        dead.Peek(ref translator, chains, new HostSegment[8]);
        first.Take(dead, chains);

        InflightRecord second = record.Open();
        RingPosition position = second.Recover(device.Ring.Addresses, default, out _);
        ReceiveQueue successor = ReceiveQueue.Create(device.Ring with { Inflight = second, Position = position }, new NetQueueCounters());
        guest.Batch.Add(100);
        Assert.AreEqual(1, successor.Enqueue(guest.Batch));
        var reaped = new Completion[8];
        Assert.AreEqual(3, driver.Reap(reaped));
        CollectionAssert.AreEqual(new uint[] { 0, 0, 112 }, reaped[..3].Select(c => c.Written).ToArray());
    }

    private static byte[] Frame(int number)
    {
        byte[] frame = new byte[64];
        Array.Fill(frame, (byte)number);
        return frame;
    }

    private sealed class Record : IDisposable
    {
        private readonly List<InflightBuffer> _open = [];
        private readonly FileDescriptor _file;
        private readonly InflightDescription _description;
        private readonly bool _packed;

        private readonly int _size;

        public Record(VirtioFeatures features, int size = Size)
        {
            _size = size;
            _packed = features.HasFlag(VirtioFeatures.RingPacked);
            var description = new InflightDescription { QueueCount = 2, QueueSize = (ushort)size };
            _file = InflightBuffer.Create(ref description, _packed, 2);
            _description = description;
        }

        public InflightRecord Open()
        {
            _open.Add(InflightBuffer.Map(_file, _description, _packed));
            return _open[^1].RecordFor(1, _size, _packed)!;
        }

        // Mostly a record that looks like one, with a few wrong bytes.
        public unsafe void Scribble(Random random, RingAddresses ring)
        {
            using var here = MappedMemory.Map(_file, 0, _description.MmapSize, writable: true);
            var bytes = new Span<byte>((void*)here.Address, (int)_description.MmapSize);
            Open().Recover(ring, _packed ? new RingPosition(0x8000, 0x8000) : default, out _);
            if (random.Next(2) == 0)
            {
                random.NextBytes(bytes);
            }

            for (int offset = 0; offset < bytes.Length; offset += bytes.Length / 2)
            {
                MemoryMarshal.Write(bytes[(offset + 8)..], (ushort)1);
                MemoryMarshal.Write(bytes[(offset + 10)..], (ushort)Size);
            }

            for (int i = random.Next(40); i > 0; i--)
            {
                bytes[random.Next(bytes.Length)] = (byte)random.Next(0, 70);
            }
        }

        public void Dispose()
        {
            _open.ForEach(o => o.Dispose());
            _file.Dispose();
        }
    }
}
