namespace Vfio.Tests;

[TestClass]
public sealed class AddressTests
{
    [TestMethod]
    public void Iova_arithmetic_never_wraps()
    {
        var top = new Iova(ulong.MaxValue);
        Assert.ThrowsExactly<OverflowException>(() => top + 1);
        Assert.ThrowsExactly<OverflowException>(() => new Iova(1) - new Iova(2));
        Assert.AreEqual(new Iova(0x3000), new Iova(0x1000) + 0x2000);
        Assert.AreEqual(0x2000ul, new Iova(0x3000) - new Iova(0x1000));
    }

    [TestMethod]
    public void Range_can_hold_the_last_byte_of_the_address_space()
    {
        IovaRange last = IovaRange.Of(new Iova(ulong.MaxValue - 0xfff), 0x1000);
        Assert.AreEqual(new Iova(ulong.MaxValue), last.Last);
        Assert.AreEqual(0x1000ul, last.Length);
        Assert.ThrowsExactly<OverflowException>(() => IovaRange.Of(new Iova(ulong.MaxValue - 0xfff), 0x1001));
        Assert.ThrowsExactly<OverflowException>(() => new IovaRange(default, new Iova(ulong.MaxValue)).Length);
    }

    [TestMethod]
    public void Range_is_never_empty_nor_turned_round()
    {
        Assert.ThrowsExactly<ArgumentOutOfRangeException>(() => IovaRange.Of(default, 0));
        Assert.ThrowsExactly<ArgumentOutOfRangeException>(() => new IovaRange(new Iova(2), new Iova(1)));
    }

    [TestMethod]
    [DataRow(0x1000ul, 0x1ffful, 0x1ffful, 0x2ffful, true)]
    [DataRow(0x1000ul, 0x1ffful, 0x2000ul, 0x2ffful, false)]
    [DataRow(0x1000ul, 0x4ffful, 0x2000ul, 0x2ffful, true)]
    [DataRow(0x2000ul, 0x2ffful, 0x1000ul, 0x4ffful, true)]
    public void Ranges_overlap_when_they_share_a_byte(ulong first, ulong last, ulong otherFirst, ulong otherLast, bool expected)
    {
        var one = new IovaRange(new Iova(first), new Iova(last));
        var other = new IovaRange(new Iova(otherFirst), new Iova(otherLast));
        Assert.AreEqual(expected, one.Overlaps(other));
        Assert.AreEqual(expected, other.Overlaps(one));
    }

    [TestMethod]
    [DataRow("0000:00:04.0", "0000:00:04.0")]
    [DataRow("00:1f.7", "0000:00:1f.7")]
    [DataRow("ABCD:ef:00.1", "abcd:ef:00.1")]
    public void Pci_address_is_read_and_written(string text, string expected) =>
        Assert.AreEqual(expected, PciAddress.Parse(text).ToString());

    [TestMethod]
    [DataRow("")]
    [DataRow("4")]
    [DataRow("00:20.0")]
    [DataRow("00:04.8")]
    [DataRow("0000:00:04")]
    [DataRow("00000:00:04.0")]
    [DataRow("0000:000:04.0")]
    [DataRow("0000:00:04.0 ")]
    [DataRow("0000:00:-4.0")]
    [DataRow("0000:0x:04.0")]
    [DataRow("../../etc:00.0")]
    public void What_is_no_pci_address_is_refused(string text)
    {
        Assert.IsFalse(PciAddress.TryParse(text, null, out _));
        FormatException e = Assert.ThrowsExactly<FormatException>(() => PciAddress.Parse(text));
        StringAssert.Contains(e.Message, "0000:00:04.0");
    }

    [TestMethod]
    public void Pci_addresses_sort_in_bus_order()
    {
        string[] ordered = ["0000:00:04.0", "0000:00:04.1", "0000:00:05.0", "0000:01:00.0", "0001:00:00.0"];
        CollectionAssert.AreEqual(ordered, ordered.Reverse().Select(t => PciAddress.Parse(t)).Order().Select(a => a.ToString()).ToArray());
    }

    [TestMethod]
    public void Slice_of_a_buffer_stays_inside_and_keeps_both_addresses_together()
    {
        var buffer = new PinnedBuffer(new Iova(0x1000), new HostAddress(0x7000_0000), 0x100);
        Assert.AreEqual(new PinnedBuffer(new Iova(0x1010), new HostAddress(0x7000_0010), 0xf0), buffer.Slice(0x10, 0xf0));
        Assert.ThrowsExactly<ArgumentOutOfRangeException>(() => buffer.Slice(0x10, 0xf1));
        Assert.ThrowsExactly<ArgumentOutOfRangeException>(() => buffer.Slice(-1, 1));
        Assert.ThrowsExactly<ArgumentOutOfRangeException>(() => buffer.Slice(0x101, 0));
    }
}
