namespace Vfio.VhostUser.Tests;

[TestClass]
public sealed class IotlbLastHitsTests
{
    private const ulong LargePage = 2 << 20;

    // A queue is made whenever its ring starts.
    [TestMethod]
    public void They_are_no_large_object() =>
        Assert.IsLessThan(GC.MaxGeneration, GC.GetGeneration(new IotlbLastHits()), "what a ring leaves behind waits for a full collection");

    [TestMethod]
    [DataRow(LargePage, 29)]
    [DataRow(4096ul, 23)]
    public void Ranges_at_any_distance_are_told_apart(ulong size, int meetAt)
    {
        var hits = new IotlbLastHits();
        hits.Begin(1);
        for (int shift = 12; shift < 63; shift++)
        {
            if (1ul << shift < size)
            {
                continue;
            }

            IotlbRange first = Range(0, size, 0x7000_0000);
            IotlbRange second = Range(1ul << shift, size, 0x6000_0000);
            hits.Add(first, first.Range.First);
            hits.Add(second, second.Range.First);
            Assert.IsTrue(hits.TryTranslate(second.Range.First, 100, DmaAccess.Write, out HostAddress host));
            Assert.AreEqual(second.Host, host);
            bool isThere = hits.TryTranslate(first.Range.First, 100, DmaAccess.Write, out host);
            Assert.IsTrue(isThere || shift >= meetAt, $"2^{shift} apart, one displaced the other");
            Assert.IsTrue(!isThere || host == first.Host, $"2^{shift} apart, one was taken for the other");
        }
    }

    [TestMethod]
    [DataRow(LargePage)]
    [DataRow(4096ul)]
    public void A_hit_is_for_its_access_and_for_its_generation(ulong size)
    {
        var hits = new IotlbLastHits();
        hits.Begin(1);
        IotlbRange read = Range(0, size, 0x7000_0000) with { Access = DmaAccess.Read };
        IotlbRange write = Range(8 * LargePage, size, 0x6000_0000) with { Access = DmaAccess.Write };
        IotlbRange both = Range(16 * LargePage, size, 0x5000_0000);
        foreach (IotlbRange range in new[] { read, write, both })
        {
            hits.Add(range, range.Range.First);
        }

        foreach (IotlbRange range in new[] { read, write, both })
        {
            Assert.AreEqual((range.Access & DmaAccess.Read) != 0, hits.TryTranslate(range.Range.First, 1, DmaAccess.Read, out _));
            Assert.AreEqual((range.Access & DmaAccess.Write) != 0, hits.TryTranslate(range.Range.First, 1, DmaAccess.Write, out _));
            Assert.IsFalse(hits.TryTranslate(range.Range.First, 1, DmaAccess.ReadWrite, out _));
        }

        // The same one, as after an update that took nothing away.
        hits.Begin(1);
        Assert.IsTrue(hits.TryTranslate(both.Range.Last, 1, DmaAccess.Write, out HostAddress last));
        Assert.AreEqual(both.Host + (size - 1), last);
        Assert.IsFalse(hits.TryTranslate(both.Range.Last, 2, DmaAccess.Write, out _), "beyond its end");
        hits.Begin(2);
        foreach (IotlbRange range in new[] { read, write, both })
        {
            Assert.IsFalse(hits.TryTranslate(range.Range.First, 1, DmaAccess.Read, out _));
            Assert.IsFalse(hits.TryTranslate(range.Range.First, 1, DmaAccess.Write, out _));
        }
    }

    private static IotlbRange Range(ulong first, ulong size, ulong host) =>
        new(IovaRange.Of(new Iova(0x4000_0000_0000_0000 + first), size), new HostAddress(host), DmaAccess.ReadWrite);
}
