namespace Vfio.Virtio.Tests;

/// <summary>Memory images that the driver side must write, worked out by hand from virtio 1.3.</summary>
[TestClass]
public sealed class DriverSideVectors
{
    private static byte[] Hex(string text) =>
        Convert.FromHexString(text.ReplaceLineEndings(string.Empty).Replace(" ", string.Empty, StringComparison.Ordinal));

    private static byte[] At(RingPair pair, HostAddress area, int length) =>
        pair.Ring.Span.Slice((int)(area - pair.Ring.Address), length).ToArray();

    [TestMethod]
    public void Split_chain_table_and_available_ring()
    {
        using var pair = new RingPair(4, VirtioFeatures.RingIndirectDesc, indirectEntries: 2);
        Assert.IsTrue(pair.Driver.TryAdd(
            [pair.Segment(0, 16, DeviceAccess.Read), pair.Segment(0x100, 0x200, DeviceAccess.Write), pair.Segment(0x400, 1, DeviceAccess.Write)], out ushort first));
        Assert.IsTrue(pair.Driver.TryAdd(
            [pair.Segment(0x20, 8, DeviceAccess.Read), pair.Segment(0x30, 4, DeviceAccess.Write)], out ushort second));
        Assert.AreEqual((0, 3), (first, second));
        CollectionAssert.AreEqual(Hex("0000 0000"), At(pair, pair.Driver.Addresses.Driver, 4), "not published yet");
        Assert.IsTrue(pair.Driver.Publish());
        Assert.IsFalse(pair.Driver.Publish(), "nothing new");

        // Three descriptors linked by NEXT (1), WRITE (2); then INDIRECT (4) to the table of head 3, two entries of 16 bytes.
        ulong table = RingPair.RingBus + (ulong)pair.Ring.Length - 32;
        CollectionAssert.AreEqual(
            Hex("""
            0000 0000 0700 0000  1000 0000  0100  0100
            0001 0000 0700 0000  0002 0000  0300  0200
            0004 0000 0700 0000  0100 0000  0200  0000
            """).Concat(BitConverter.GetBytes(table)).Concat(Hex("2000 0000  0400  0000")).ToArray(),
            At(pair, pair.Driver.Addresses.Descriptors, 64));
        CollectionAssert.AreEqual(
            Hex("""
            2000 0000 0700 0000  0800 0000  0100  0100
            3000 0000 0700 0000  0400 0000  0200  0000
            """), pair.Ring.Span[^32..].ToArray());
        // flags 0, idx 2, ring {0, 3, -, -}
        CollectionAssert.AreEqual(Hex("0000 0200 0000 0300"), At(pair, pair.Driver.Addresses.Driver, 8));
    }

    [TestMethod]
    public void Split_suppression()
    {
        using (var pair = new RingPair(4, VirtioFeatures.None))
        {
            pair.Driver.DisableNotifications();
            CollectionAssert.AreEqual(Hex("0100"), At(pair, pair.Driver.Addresses.Driver, 2));
            Assert.IsFalse(pair.Driver.EnableNotifications());
            CollectionAssert.AreEqual(Hex("0000"), At(pair, pair.Driver.Addresses.Driver, 2));
        }

        using var indexed = new RingPair(4, VirtioFeatures.RingEventIdx);
        indexed.Driver.DisableNotifications();
        // flags stay 0; used_event, behind the four ring entries, is an index already passed.
        CollectionAssert.AreEqual(Hex("0000 0000  0000 0000 0000 0000  FFFF"), At(indexed, indexed.Driver.Addresses.Driver, 14));
        Assert.IsFalse(indexed.Driver.EnableNotifications());
        CollectionAssert.AreEqual(Hex("0000"), At(indexed, indexed.Driver.Addresses.Driver, 14)[12..]);
    }

    [TestMethod]
    public void Packed_batch_shows_when_its_first_descriptor_does()
    {
        using var pair = new RingPair(3, VirtioFeatures.RingPacked);
        Assert.IsTrue(pair.Driver.TryAdd(
            [pair.Segment(0, 16, DeviceAccess.Read), pair.Segment(0x100, 0x200, DeviceAccess.Write)], out ushort first));
        Assert.IsTrue(pair.Driver.TryAdd([pair.Segment(0x20, 8, DeviceAccess.Write)], out ushort second));
        Assert.AreEqual((0, 1), (first, second));
        CollectionAssert.AreEqual(
            Hex("0000 0000  0000  0000"), At(pair, pair.Driver.Addresses.Descriptors, 16)[8..], "the first one's flags come last");
        Assert.IsTrue(pair.Driver.Publish());
        // Wrap counter 1: AVAIL 0x80 set, USED 0x8000 clear.
        CollectionAssert.AreEqual(
            Hex("""
            0000 0000 0700 0000  1000 0000  0000  8100
            0001 0000 0700 0000  0002 0000  0000  8200
            2000 0000 0700 0000  0800 0000  0100  8200
            """), At(pair, pair.Driver.Addresses.Descriptors, 48));

        // Chain 1 is used first, at slot 0; then its slot is given out again on pass 2: AVAIL clear, USED set.
        Hex("0800 0000  0100  8280").CopyTo(pair.Ring.Span[8..]);
        var completions = new Completion[4];
        Assert.AreEqual(1, pair.Driver.Reap(completions));
        Assert.AreEqual(new Completion(1, 8), completions[0]);
        Assert.IsTrue(pair.Driver.TryAdd([pair.Segment(0x40, 4, DeviceAccess.Read)], out _));
        Assert.IsTrue(pair.Driver.Publish());
        CollectionAssert.AreEqual(
            Hex("4000 0000 0700 0000  0400 0000  0100  0080"), At(pair, pair.Driver.Addresses.Descriptors, 16));
    }

    [TestMethod]
    public void Packed_suppression()
    {
        using var pair = new RingPair(3, VirtioFeatures.RingPacked | VirtioFeatures.RingEventIdx);
        pair.Driver.DisableNotifications();
        CollectionAssert.AreEqual(Hex("0000 0100"), At(pair, pair.Driver.Addresses.Driver, 4));
        Assert.IsFalse(pair.Driver.EnableNotifications());
        // Slot 0, wrap counter 1, flag DESC.
        CollectionAssert.AreEqual(Hex("0080 0200"), At(pair, pair.Driver.Addresses.Driver, 4));
    }

    [TestMethod]
    public void Chains_that_no_device_could_take_are_the_callers_fault()
    {
        using var pair = new RingPair(4, VirtioFeatures.None);
        DmaSegment readable = pair.Segment(0, 16, DeviceAccess.Read);
        DmaSegment writable = pair.Segment(0, 16, DeviceAccess.Write);
        Assert.ThrowsExactly<ArgumentException>(() => pair.Driver.TryAdd([], out _));
        Assert.ThrowsExactly<ArgumentException>(() => pair.Driver.TryAdd([writable, readable], out _));
        Assert.ThrowsExactly<ArgumentException>(() => pair.Driver.TryAdd([pair.Segment(0, 0, DeviceAccess.Read)], out _));
        Assert.ThrowsExactly<ArgumentException>(() => pair.Driver.TryAdd([readable, readable, readable, readable, readable], out _));
        Assert.AreEqual(0, pair.Driver.Outstanding);
    }
}
