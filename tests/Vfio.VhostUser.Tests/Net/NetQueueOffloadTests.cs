using System.Runtime.InteropServices;
using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.VhostUser.Tests.Net;

/// <summary>One network ring over real guest memory, with our driver's side at the other end.</summary>
[TestClass]
public sealed class NetQueueOffloadTests : IDisposable
{
    private const int RingSize = 64;
    private const ulong DataOffset = 0x10000;
    private static readonly GuestPhysicalAddress Guest = new(0x1_0000_0000);

    private readonly OwingCall _call = new();
    private FileDescriptor _file = null!;
    private GuestMemoryRegion _region = null!;
    private PinnedPool _pool = null!;
    private FrameBatch _batch = null!;

    [TestInitialize]
    public void ShareMemory()
    {
        _file = MemoryFile.Create("guest", 1 << 20);
        _region = GuestMemoryRegion.Map(Guest, new FrontendAddress(0x7f00_0000_0000), 1 << 20, _file, new FileOffset(0));
        _pool = PinnedPool.Create(new PinnedPoolOptions
        {
            Name = "net",
            Size = (ulong)FrameBatch.Capacity * FrameBatch.BufferSize,
            Backings = [MemoryBacking.Pages4KiB],
            BufferSize = FrameBatch.BufferSize,
            TrackDirty = false,
        });
        _batch = new FrameBatch(_pool);
    }

    public void Dispose()
    {
        _batch.Dispose();
        _pool.Dispose();
        _region.Dispose();
        _file.Dispose();
    }

    [TestMethod]
    public void A_checksum_is_finished_once_however_often_the_frame_waits_for_buffers()
    {
        (DriverQueue driver, VringConfiguration ring) = Make(0, NetFeatures.MrgRxbuf);
        var queue = ReceiveQueue.Create(ring, new NetQueueCounters());
        byte[] bytes = [.. Enumerable.Range(0, 200).Select(i => (byte)(i & 0xFF))];
        ref Frame frame = ref _batch.Append(200);
        frame.Header = new NetHeader { Flags = virtio_net.VIRTIO_NET_HDR_F_NEEDS_CSUM, ChecksumStart = 34, ChecksumOffset = 16 };
        bytes.CopyTo(frame.Span);
        Post(driver, 0, 100, DeviceAccess.Write);
        Assert.AreEqual(0, queue.Enqueue(_batch));
        Post(driver, 100, 150, DeviceAccess.Write);
        Assert.AreEqual(1, queue.Enqueue(_batch));
        InternetChecksum.Finish(bytes, 34, 16);
        CollectionAssert.AreEqual(bytes, At(NetHeader.Bytes, 200).Span.ToArray());
    }

    [TestMethod]
    public void A_driver_s_header_promises_nothing_to_another_driver()
    {
        (DriverQueue driver, VringConfiguration ring) = Make(1, NetFeatures.Csum);
        var queue = TransmitQueue.Create(ring, new NetQueueCounters());
        Header(0) = new NetHeader { Flags = 0xFF, ChecksumStart = 14, ChecksumOffset = 4, BufferCount = 7 };
        Post(driver, 0, 100, DeviceAccess.Read);
        Header(100) = new NetHeader { Flags = 0xFE, GsoType = 0x80, HeaderLength = 9 };
        Post(driver, 100, 100, DeviceAccess.Read);
        Assert.AreEqual(2, queue.Dequeue(_batch));
        Assert.AreEqual(virtio_net.VIRTIO_NET_HDR_F_NEEDS_CSUM, _batch.Frames[0].Header.Flags);
        Assert.AreEqual(14, _batch.Frames[0].Header.ChecksumStart);
        Assert.AreEqual(default, _batch.Frames[1].Header);
    }

    [TestMethod]
    public void A_call_that_found_no_room_is_made_without_another_frame()
    {
        (DriverQueue driver, VringConfiguration ring) = Make(1, default);
        var queue = TransmitQueue.Create(ring, new NetQueueCounters());
        Post(driver, 0, 100, DeviceAccess.Read);
        Assert.AreEqual(1, queue.Dequeue(_batch));
        Assert.AreEqual(1, _call.Tries);
        Assert.AreEqual(0, queue.Counters.Calls);
        _call.HasRoom = true;
        _batch.Clear();
        Assert.AreEqual(0, queue.Dequeue(_batch));
        Assert.AreEqual(1, queue.Counters.Calls);
        Assert.AreEqual(0, queue.Dequeue(_batch));
        Assert.AreEqual(2, _call.Tries);
    }

    // Who had the ring before may have ended between showing a buffer and the call for it.
    [TestMethod]
    public void A_ring_that_goes_on_begins_with_a_call()
    {
        (DriverQueue driver, VringConfiguration ring) = Make(1, default);
        _call.HasRoom = true;
        var first = TransmitQueue.Create(ring, new NetQueueCounters());
        Assert.AreEqual(0, first.Dequeue(_batch));
        Assert.AreEqual(0, first.Counters.Calls);
        Post(driver, 0, 100, DeviceAccess.Read);
        Assert.AreEqual(1, first.Dequeue(_batch));
        _batch.Clear();
        var second = TransmitQueue.Create(ring with { Position = first.Position }, new NetQueueCounters());
        Assert.AreEqual(0, second.Dequeue(_batch));
        Assert.AreEqual(1, second.Counters.Calls);
        Assert.AreEqual(0, second.Dequeue(_batch));
        Assert.AreEqual(1, second.Counters.Calls);
    }

    [TestMethod]
    public void A_log_signal_that_found_no_room_is_given_with_a_later_batch()
    {
        using FileDescriptor file = MemoryFile.Create("log", 1 << 20);
        using var log = DirtyLog.Map(file, default, 1 << 20);
        var signal = new OwingCall();
        (DriverQueue driver, VringConfiguration ring) = Make(0, NetFeatures.None);
        var queue = ReceiveQueue.Create(ring with { Log = log, LogSignal = signal }, new NetQueueCounters());
        // All in one page: only the first marks anything anew.
        for (int i = 0; i < 4; i++)
        {
            signal.HasRoom = i == 2;
            _batch.Add(64).Span.Fill(1);
            Post(driver, (ulong)i * 100, 100, DeviceAccess.Write);
            Assert.AreEqual(1, queue.Enqueue(_batch));
            Assert.AreEqual(Math.Min(i + 1, 3), signal.Tries);
        }
    }

    [TestMethod]
    public void An_error_that_found_no_room_is_told_later_and_once()
    {
        (DriverQueue driver, VringConfiguration ring) = Make(1, NetFeatures.None);
        var error = new OwingCall();
        var queue = TransmitQueue.Create(ring with { Error = error }, new NetQueueCounters());
        Assert.IsFalse(queue.TryReport());
        Assert.AreEqual(0, error.Tries);
        Post(driver, 0, 100, DeviceAccess.Write);
        Assert.AreEqual(0, queue.Dequeue(_batch));
        Assert.IsTrue(queue.TryReport());
        Assert.AreEqual(1, error.Tries);
        error.HasRoom = true;
        Assert.IsFalse(queue.TryReport());
        Assert.IsFalse(queue.TryReport());
        Assert.AreEqual(2, error.Tries);
        Assert.AreEqual(1, queue.Counters.Broken);
    }

    private static PinnedBuffer Buffer(GuestMemoryRegion region, ulong offset, int length) =>
        new(new Iova(Guest.Value + offset), region.Host + offset, length);

    private (DriverQueue Driver, VringConfiguration Ring) Make(int index, NetFeatures features)
    {
        VirtioFeatures all = VirtioFeatures.Version1 | (VirtioFeatures)features;
        var driver = DriverQueue.Create(RingSize, all, Buffer(_region, 0, DriverQueue.BytesFor(RingSize, all, 0)));
        var ring = new VringConfiguration
        {
            Index = index,
            Size = RingSize,
            Features = all,
            Addresses = driver.Addresses,
            Memory = GuestMemory.Of([_region]),
            Position = new RingPosition(0, 0),
            Enabled = true,
            Call = _call,
        };
        return (driver, ring);
    }

    private PinnedBuffer At(ulong offset, int length) => Buffer(_region, DataOffset + offset, length);

    private ref NetHeader Header(ulong offset) => ref MemoryMarshal.AsRef<NetHeader>(At(offset, NetHeader.Bytes).Span);

    private void Post(DriverQueue driver, ulong offset, int length, DeviceAccess access)
    {
        Assert.IsTrue(driver.TryAdd([new DmaSegment(At(offset, length), access)], out _));
        driver.Publish();
    }

    // As the back-end channel when its socket is full.
    private sealed class OwingCall : VringCall
    {
        public bool HasRoom { get; set; }

        public int Tries { get; private set; }

        public override bool TrySignal()
        {
            Tries++;
            return HasRoom;
        }
    }
}
