namespace Vfio.Virtio.Tests;

[TestClass]
public sealed unsafe class RingAreaTests
{
    private const ulong Bus = 0x1_0000_0000;
    private const ulong Host = 0x7000_0000_0000;

    [TestMethod]
    public void Each_byte_is_found_in_its_page()
    {
        // From the middle of a page, over a run of two and a half, into one that is elsewhere.
        RingArea area = RingArea.TryOf(
            new BusAddress(Bus + 0x800), [(new HostAddress(Host + 0x800), 0x2800), (new HostAddress(Host - 0x9000), 0x10)])!;
        Assert.AreEqual(0x2810u, area.Length);
        Assert.AreEqual(new HostAddress(Host + 0x800), area.First);
        Assert.AreEqual(Host + 0xFFF, (ulong)area.At(0x7FF));
        Assert.AreEqual(Host + 0x2FFF, (ulong)area.At(0x27FF));
        Assert.AreEqual(Host - 0x9000, (ulong)area.At(0x2800));
        _ = (ulong)area.At(0x7F0, out uint together);
        Assert.AreEqual(0x10u, together);
        _ = (ulong)area.At(0x800, out together);
        Assert.AreEqual(0x1000u, together);
        Assert.ThrowsExactly<IndexOutOfRangeException>(() => _ = (ulong)area.At(0x3800));
    }

    [TestMethod]
    // The host's addresses of two pieces, and the bytes of the first: it must end where a page does, and both be aligned as on the bus.
    [DataRow(0x0ul, 0x800ul, 0x9000ul)]
    [DataRow(0x8ul, 0x1000ul, 0x9000ul)]
    [DataRow(0x0ul, 0x1000ul, 0x9008ul)]
    [DataRow(0x0ul, 0x0ul, 0x9000ul)]
    [DataRow(0x0ul, 0x1_0000_0000ul, 0x9000ul)]
    public void What_no_page_table_can_hold_is_refused(ulong first, ulong length, ulong second) =>
        Assert.IsNull(RingArea.TryOf(new BusAddress(Bus), [(new HostAddress(Host + first), length), (new HostAddress(Host + second), 16)]));

    [TestMethod]
    public void A_part_that_is_too_short_is_refused()
    {
        RingArea Area(uint bytes) => RingArea.TryOf(new BusAddress(Bus), [(new HostAddress(Host), bytes)])!;
        RingAddresses ring = RingAddresses.Scattered(Area(16 * 256), Area(6 + (2 * 256)), Area(6 + (8 * 255)));
        Assert.ThrowsExactly<ArgumentException>(() => DeviceQueue.Create(256, ring, VirtioFeatures.Version1));
        Assert.AreEqual(128, DeviceQueue.Create(128, ring, VirtioFeatures.Version1).Size);
    }
}
