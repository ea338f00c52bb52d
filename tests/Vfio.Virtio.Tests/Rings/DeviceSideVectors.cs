using Vfio.Testing;

namespace Vfio.Virtio.Tests;

/// <summary>Memory images worked out by hand from virtio 1.3, so that a misunderstanding shared by our two sides cannot pass.</summary>
[TestClass]
public sealed unsafe class DeviceSideVectors
{
    private const ulong BusBase = 0x1_0000_0000;

    // Size 4: table 64 bytes, available ring 6 + 8 = 14, padding 2, used ring 6 + 32 = 38.
    private const int Avail = 64;
    private const int Used = 80;
    private const int SplitLength = 118;

    private static byte[] Hex(string text) => Convert.FromHexString(text.Replace(" ", string.Empty, StringComparison.Ordinal));

    private static RingAddresses SplitAt(GuardedMemory memory) =>
        new(memory.Address, memory.Address + Avail, memory.Address + Used);

    [TestMethod]
    public void Split_a_chain_of_two_and_a_single_one_are_taken_and_used()
    {
        using var memory = new GuardedMemory(SplitLength);
        using var data = new GuardedMemory(256);
        Hex("""
            10 00 00 00 01 00 00 00  08 00 00 00  02 00  00 00
            00 00 00 00 01 00 00 00  10 00 00 00  01 00  03 00
            00 00 00 00 00 00 00 00  00 00 00 00  00 00  00 00
            20 00 00 00 01 00 00 00  04 01 00 00  02 00  00 00
            """.ReplaceLineEndings(" ")).CopyTo(memory.Span);
        // flags 0, idx 2, ring {1, 0, ..}
        Hex("00 00 02 00 01 00 00 00 00 00 00 00 00 00").CopyTo(memory.Span[Avail..]);

        var queue = DeviceQueue.Create(4, SplitAt(memory), VirtioFeatures.Version1);
        var translator = new PlainTranslator(BusBase, data.Address, 0x1000);
        Span<DescriptorChain> chains = new DescriptorChain[32];
        Span<HostSegment> segments = new HostSegment[8];

        Assert.AreEqual(2, queue.Peek(ref translator, chains, segments));
        Assert.AreEqual((ushort)1, chains[0].Id);
        Assert.AreEqual(0x10UL, chains[0].ReadableLength);
        Assert.AreEqual(0x104UL, chains[0].WritableLength);
        Assert.AreEqual(data.Address, chains[0].Readable(segments)[0].Address);
        Assert.AreEqual(data.Address + 0x20, chains[0].Writable(segments)[0].Address);
        Assert.AreEqual((ushort)0, chains[1].Id);
        Assert.AreEqual(data.Address + 0x10, chains[1].Writable(segments)[0].Address);
        queue.Consume(chains[..2]);
        queue.Complete([chains[1].Used(8), chains[0].Used(0x103)]);
        CollectionAssert.AreEqual(Hex("00 00 00 00"), memory.Span.Slice(Used, 4).ToArray(), "not published yet");
        Assert.IsTrue(queue.Publish());

        // flags 0, idx 2, {id 0, len 8}, {id 1, len 0x103}, two untouched, avail_event untouched.
        CollectionAssert.AreEqual(
            Hex("00 00 02 00  00 00 00 00 08 00 00 00  01 00 00 00 03 01 00 00" + string.Concat(Enumerable.Repeat("00", 18))),
            memory.Span[Used..].ToArray());
        Assert.AreEqual(0, queue.Peek(ref translator, chains, segments));
        Assert.AreEqual(RingError.None, queue.Error);
    }

    [TestMethod]
    public void Split_suppression_is_where_the_layout_has_it()
    {
        using var memory = new GuardedMemory(SplitLength);
        var queue = DeviceQueue.Create(4, SplitAt(memory), VirtioFeatures.None);
        queue.DisableNotifications();
        CollectionAssert.AreEqual(Hex("01 00"), memory.Span.Slice(Used, 2).ToArray());
        Assert.IsFalse(queue.EnableNotifications());
        CollectionAssert.AreEqual(Hex("00 00"), memory.Span.Slice(Used, 2).ToArray());

        var indexed = DeviceQueue.Create(4, SplitAt(memory), VirtioFeatures.RingEventIdx, new RingPosition(0x1234, 0x1234));
        memory.Span[Avail + 2] = 0x34;
        memory.Span[Avail + 3] = 0x12;
        Assert.IsFalse(indexed.EnableNotifications());
        CollectionAssert.AreEqual(Hex("34 12"), memory.Span.Slice(Used + 36, 2).ToArray(), "avail_event is behind the used ring");
        memory.Span[Avail + 2] = 0x35;
        Assert.IsTrue(indexed.EnableNotifications(), "one is there already");
    }

    // Size 3 (packed may be any): 48 bytes, driver event 4, device event 4.
    [TestMethod]
    public void Packed_flags_follow_the_wrap_counters()
    {
        using var memory = new GuardedMemory(56);
        using var data = new GuardedMemory(256);
        var ring = new RingAddresses(memory.Address, memory.Address + 48, memory.Address + 52);
        var queue = DeviceQueue.Create(
            3, ring, VirtioFeatures.RingPacked);
        var translator = new PlainTranslator(BusBase, data.Address, 0x1000);
        Span<DescriptorChain> chains = new DescriptorChain[32];
        Span<HostSegment> segments = new HostSegment[8];

        // Pass 1, wrap counter 1: AVAIL (0x80) set, USED (0x8000) clear. A chain of two (NEXT 1, then WRITE 2; id 7 in the last),
        // and a single one with id 5.
        Hex("""
            00 00 00 00 01 00 00 00  10 00 00 00  00 00  81 00
            20 00 00 00 01 00 00 00  40 00 00 00  07 00  82 00
            60 00 00 00 01 00 00 00  08 00 00 00  05 00  80 00
            """.ReplaceLineEndings(" ")).CopyTo(memory.Span);
        Assert.AreEqual(2, queue.Peek(ref translator, chains, segments));
        Assert.AreEqual((7, 2, 5, 1), (chains[0].Id, chains[0].Slots, chains[1].Id, chains[1].Slots));
        Assert.AreEqual(0x40UL, chains[0].WritableLength);
        queue.Consume(chains[..2]);
        Assert.AreEqual(new PackedPosition(0, false), PackedPosition.FromRaw(queue.Position.Avail));
        Assert.AreEqual(0, queue.Peek(ref translator, chains, segments), "slot 0 is still of pass 1");

        // The single one is used first: its used descriptor takes slot 0, AVAIL = USED = 1, nothing written.
        queue.Complete([new UsedChain(5, 1, 0)]);
        Assert.AreEqual(0x81, memory.Span[14], "held back until it is published");
        Assert.IsTrue(queue.Publish());
        CollectionAssert.AreEqual(Hex("00 00 00 00  05 00  80 80"), memory.Span.Slice(8, 8).ToArray());
        // The chain of two goes to slot 1 and covers 1 and 2: WRITE set, length 0x3f.
        queue.Complete([new UsedChain(7, 2, 0x3f)]);
        Assert.IsTrue(queue.Publish());
        CollectionAssert.AreEqual(Hex("3f 00 00 00  07 00  82 80"), memory.Span.Slice(24, 8).ToArray());
        Assert.AreEqual(new PackedPosition(0, false), PackedPosition.FromRaw(queue.Position.Used));

        // Pass 2, wrap counter 0: AVAIL clear, USED set.
        Hex("10 00 00 00 01 00 00 00  04 00 00 00  09 00  02 80").CopyTo(memory.Span);
        Assert.AreEqual(1, queue.Peek(ref translator, chains, segments));
        Assert.AreEqual(9, chains[0].Id);
        queue.Consume(chains[..1]);
        queue.Complete([chains[0].Used(4)]);
        _ = queue.Publish();
        // AVAIL = USED = 0, WRITE.
        CollectionAssert.AreEqual(Hex("04 00 00 00  09 00  02 00"), memory.Span.Slice(8, 8).ToArray());
    }

    [TestMethod]
    public void Packed_suppression_is_where_the_layout_has_it()
    {
        using var memory = new GuardedMemory(56);
        var ring = new RingAddresses(memory.Address, memory.Address + 48, memory.Address + 52);
        ushort place = new PackedPosition(2, true).Raw;
        var position = new RingPosition(place, place);
        var queue = DeviceQueue.Create(3, ring, VirtioFeatures.RingPacked, position);
        queue.DisableNotifications();
        CollectionAssert.AreEqual(Hex("00 00 01 00"), memory.Span[52..].ToArray());
        Assert.IsFalse(queue.EnableNotifications());
        CollectionAssert.AreEqual(Hex("00 00 00 00"), memory.Span[52..].ToArray());
        var indexed = DeviceQueue.Create(3, ring, VirtioFeatures.RingPacked | VirtioFeatures.RingEventIdx, position);
        Assert.IsFalse(indexed.EnableNotifications());
        CollectionAssert.AreEqual(Hex("02 80 02 00"), memory.Span[52..].ToArray(), "slot 2, wrap 1, flag DESC");
    }

    [TestMethod]
    public void Packed_in_order_batch_is_one_descriptor_at_its_first_slot_with_the_last_id()
    {
        using var memory = new GuardedMemory(56);
        using var data = new GuardedMemory(256);
        var ring = new RingAddresses(memory.Address, memory.Address + 48, memory.Address + 52);
        var queue = DeviceQueue.Create(
            3, ring, VirtioFeatures.RingPacked | VirtioFeatures.InOrder);
        var translator = new PlainTranslator(BusBase, data.Address, 0x1000);
        Span<DescriptorChain> chains = new DescriptorChain[32];
        Span<HostSegment> segments = new HostSegment[8];
        Hex("""
            00 00 00 00 01 00 00 00  10 00 00 00  00 00  80 00
            20 00 00 00 01 00 00 00  40 00 00 00  01 00  80 00
            """.ReplaceLineEndings(" ")).CopyTo(memory.Span);
        Assert.AreEqual(2, queue.Peek(ref translator, chains, segments));
        queue.Consume(chains[..2]);
        queue.CompleteReadOnly([chains[0].Used(0), chains[1].Used(0)]);
        Assert.IsTrue(queue.Publish());
        CollectionAssert.AreEqual(Hex("00 00 00 00  01 00  80 80"), memory.Span.Slice(8, 8).ToArray());
        CollectionAssert.AreEqual(Hex("40 00 00 00  01 00  80 00"), memory.Span.Slice(24, 8).ToArray(), "skipped, untouched");
        Assert.AreEqual(new PackedPosition(2, true), PackedPosition.FromRaw(queue.Position.Used));
    }

    [TestMethod]
    // wanted slot/wrap, next slot/wrap, count, ring of 8: the step from next - count to next passes "wanted" or not.
    [DataRow(3, true, 4, true, 1, true)]
    [DataRow(3, true, 3, true, 1, false)]
    [DataRow(3, true, 6, true, 3, true)]
    [DataRow(2, true, 6, true, 3, false)]
    [DataRow(7, true, 1, false, 3, true)]
    [DataRow(0, false, 1, false, 3, true)]
    [DataRow(1, false, 1, false, 3, false)]
    [DataRow(5, true, 1, false, 3, false)]
    [DataRow(0, true, 0, false, 8, true)]
    public void Packed_event_offset_is_met_across_the_wrap(
        int wantedSlot, bool wantedWrap, int slot, bool wrap, int count, bool expected)
    {
        uint suppression = new PackedPosition((ushort)wantedSlot, wantedWrap).Raw | (2u << 16);
        Assert.AreEqual(
            expected, EventIndex.CrossedPacked(suppression, new PackedPosition((ushort)slot, wrap), count, 8, hasEventIndex: true));
    }

    [TestMethod]
    [DataRow(10, 11, 10, true)]
    [DataRow(10, 10, 9, false)]
    [DataRow(9, 11, 10, false)]
    [DataRow(0xFFFF, 0, 0xFFFF, true)]
    [DataRow(0xFFFE, 2, 0xFFFE, true)]
    [DataRow(2, 2, 0xFFFE, false)]
    [DataRow(1, 2, 0xFFFE, true)]
    public void Split_event_index_is_met_across_the_wrap(int wanted, int next, int previous, bool expected) =>
        Assert.AreEqual(expected, EventIndex.Crossed((ushort)wanted, (ushort)next, (ushort)previous));
}
