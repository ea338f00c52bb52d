using System.Buffers.Binary;
using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.VhostUser.Tests.Net;

/// <summary>Indirect tables, written by hand, that lie in two regions: neighbours for the guest, and not here.</summary>
[TestClass]
public sealed unsafe class TableAcrossRegionsTests : IDisposable
{
    private const ulong Half = 64 << 10;
    private const int RingSize = 16;
    private const int Entries = 8;
    private const int EntryBytes = 16;
    private const int PieceBytes = 30;
    private const int FrameBytes = ((Entries - 1) * PieceBytes) - 10;
    private static readonly GuestPhysicalAddress First = new(0x4000_0000);

    private readonly FileDescriptor _file = MemoryFile.Create("guest", 2 * Half);
    private readonly MappedMemory _mapping;
    private readonly GuestMemoryRegion[] _regions;
    private readonly Guest _frames = new();

    public TableAcrossRegionsTests()
    {
        _mapping = MappedMemory.Map(_file, 0, 2 * Half, writable: true);
        _regions = [.. new[] { 0ul, Half }.Select(start => GuestMemoryRegion.Map(
            First + start, new FrontendAddress(0x7000_0000 + start), Half, _file, new FileOffset(start)))];
    }

    public void Dispose()
    {
        _frames.Dispose();
        Array.ForEach(_regions, r => r.Dispose());
        _mapping.Dispose();
        _file.Dispose();
    }

    // Between two entries, in the middle of one, and where no entry is aligned.
    [TestMethod]
    [DataRow(false, 64)]
    [DataRow(false, 72)]
    [DataRow(false, 60)]
    [DataRow(true, 64)]
    [DataRow(true, 72)]
    [DataRow(true, 60)]
    public void A_frame_arrives_whole(bool packed, int before)
    {
        Assert.AreNotEqual(_regions[0].Host + Half, _regions[1].Host);
        byte[] frame = new byte[FrameBytes];
        new Random(before).NextBytes(frame);

        byte[] sent = [.. new byte[NetHeader.Bytes], .. frame];
        for (int i = 0, at = 0; i < Entries; at += Length(i), i++)
        {
            sent.AsSpan(at, Math.Min(Length(i), sent.Length - at)).CopyTo(Guest(Piece(i)));
        }

        VringConfiguration ring = Place(1, packed, before, sent.Length, 0);
        var transmit = TransmitQueue.Create(ring, new NetQueueCounters());
        Assert.AreEqual(1, transmit.Dequeue(_frames.Batch), transmit.Error.ToString());
        CollectionAssert.AreEqual(frame, _frames.Batch.Frames[0].Span.ToArray());

        for (int i = 0; i < Entries; i++)
        {
            Guest(Piece(i))[..PieceBytes].Fill(0xCC);
        }

        ring = Place(0, packed, before, sent.Length, virtio_ring.VRING_DESC_F_WRITE);
        var receive = ReceiveQueue.Create(ring, new NetQueueCounters());
        Assert.AreEqual(1, receive.Enqueue(_frames.Batch), receive.Error.ToString());
        byte[] received = [.. Enumerable.Range(0, Entries).SelectMany(i => Guest(Piece(i))[..Length(i)].ToArray())];
        CollectionAssert.AreEqual(frame, received[NetHeader.Bytes..sent.Length]);
        Assert.AreEqual(1, receive.Counters.Frames);
    }

    // The first holds a header.
    private static int Length(int entry) => entry == 0 ? NetHeader.Bytes : PieceBytes;

    // In turn in the one region and in the other.
    private static ulong Piece(int entry) => (entry % 2 == 0 ? 0x8000 : Half + 0x8000) + ((ulong)entry * 64);

    private Span<byte> Guest(ulong offset) => new((byte*)_mapping.Address + offset, (int)(2 * Half - offset));

    private VringConfiguration Place(int index, bool packed, int before, int bytes, int flags)
    {
        VirtioFeatures features = VirtioFeatures.Version1 | VirtioFeatures.RingIndirectDesc | (packed ? VirtioFeatures.RingPacked : 0);
        ulong start = (ulong)index * 0x3000;
        ulong table = Half - (ulong)before;
        for (int i = 0; i < Entries; i++)
        {
            int length = Math.Min(Length(i), bytes);
            bytes -= length;
            bool isLast = i == Entries - 1;
            Write(packed, table + (ulong)(i * EntryBytes), First.Value + Piece(i), length,
                flags | (packed || isLast ? 0 : virtio_ring.VRING_DESC_F_NEXT), packed || isLast ? 0 : i + 1);
        }

        Write(packed, start, First.Value + table, Entries * EntryBytes,
            virtio_ring.VRING_DESC_F_INDIRECT | (packed ? 1 << virtio_ring.VRING_PACKED_DESC_F_AVAIL : 0), 0);
        if (!packed)
        {
            // The available ring: flags, index 1, descriptor 0.
            BinaryPrimitives.WriteUInt16LittleEndian(Guest(start + 0x1000 + 2), 1);
        }

        HostAddress host = _regions[0].Host + start;
        return new VringConfiguration
        {
            Index = index,
            Size = RingSize,
            Features = features,
            Addresses = new RingAddresses(host, host + 0x1000, host + 0x2000),
            Memory = GuestMemory.Of(_regions),
            Position = RingPosition.Start(features),
            Enabled = true,
        };
    }

    private void Write(bool packed, ulong offset, ulong address, int length, int flags, int next)
    {
        Span<byte> place = Guest(offset);
        BinaryPrimitives.WriteUInt64LittleEndian(place, address);
        BinaryPrimitives.WriteUInt32LittleEndian(place[8..], (uint)length);
        BinaryPrimitives.WriteUInt16LittleEndian(place[(packed ? 14 : 12)..], (ushort)flags);
        BinaryPrimitives.WriteUInt16LittleEndian(place[(packed ? 12 : 14)..], (ushort)next);
    }
}
