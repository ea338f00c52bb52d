using Vfio.Virtio;

namespace Vfio.VhostUser.Tests;

[TestClass]
public sealed class DeviceIotlbTests
{
    private static readonly IovaRange Everything = new(new Iova(0), new Iova(ulong.MaxValue));

    [TestMethod]
    public void Neighbours_merge_only_where_the_memory_is_contiguous_and_the_access_the_same()
    {
        var iotlb = new DeviceIotlb();
        iotlb.Update(Translation(0x1000, 0x1000, 0xa000, DmaAccess.Read));
        iotlb.Update(Translation(0x2000, 0x1000, 0xb000, DmaAccess.Read));
        Assert.AreEqual(1, iotlb.Snapshot.Count);
        iotlb.Update(Translation(0x3000, 0x1000, 0xd000, DmaAccess.Read));
        Assert.AreEqual(2, iotlb.Snapshot.Count, "the host addresses are not contiguous");
        iotlb.Update(Translation(0x4000, 0x1000, 0xe000, DmaAccess.ReadWrite));
        Assert.AreEqual(3, iotlb.Snapshot.Count, "the access differs");
        iotlb.Update(Translation(0x6000, 0x1000, 0x10000, DmaAccess.ReadWrite));
        Assert.AreEqual(4, iotlb.Snapshot.Count, "a gap in the IOVAs");
        iotlb.Update(Translation(0x5000, 0x1000, 0xf000, DmaAccess.ReadWrite));
        Assert.AreEqual(3, iotlb.Snapshot.Count, "the gap was filled");
        Assert.AreEqual(3, iotlb.Counters.Merged);
    }

    [TestMethod]
    public void Two_adjacent_ranges_of_memory_that_is_not_adjacent_are_two_pieces()
    {
        var iotlb = new DeviceIotlb();
        iotlb.Update(Translation(0x1000, 0x1000, 0xa000, DmaAccess.Read));
        iotlb.Update(Translation(0x2000, 0x1000, 0x5000, DmaAccess.Read));
        using var view = new IotlbView(iotlb, questions => 0);
        Assert.AreEqual(
            TranslationStatus.Translated, view.Translate(new Iova(0x1ff0), 0x20, DmaAccess.Read, out HostAddress host, out uint usable));
        Assert.AreEqual(new HostAddress(0xaff0), host);
        Assert.AreEqual(0x10u, usable);
        Assert.AreEqual(
            TranslationStatus.Translated, view.Translate(new Iova(0x2000), 0x10, DmaAccess.Read, out host, out usable));
        Assert.AreEqual(new HostAddress(0x5000), host);
        Assert.AreEqual(0x10u, usable);
    }

    [TestMethod]
    public void An_update_splits_what_it_lies_in_and_an_invalidation_cuts_exactly_its_range()
    {
        var iotlb = new DeviceIotlb();
        iotlb.Update(Translation(0x1000, 0x3000, 0xa000, DmaAccess.ReadWrite));
        long generation = iotlb.Snapshot.Generation;
        iotlb.Update(Translation(0x2000, 0x1000, 0x77000, DmaAccess.Read));
        Assert.AreEqual(3, iotlb.Snapshot.Count);
        Assert.IsGreaterThan(generation, iotlb.Snapshot.Generation);
        Assert.AreEqual(2, iotlb.Invalidate(IovaRange.Of(new Iova(0x1fff), 2)));
        Assert.IsTrue(iotlb.Snapshot.TryFind(new Iova(0x1ffe), out _));
        Assert.IsFalse(iotlb.Snapshot.TryFind(new Iova(0x1fff), out _));
        Assert.IsFalse(iotlb.Snapshot.TryFind(new Iova(0x2000), out _));
        Assert.IsTrue(iotlb.Snapshot.TryFind(new Iova(0x2001), out IotlbRange found));
        Assert.AreEqual(new HostAddress(0x77001), found.At(new Iova(0x2001)));
        Assert.IsTrue(iotlb.Snapshot.TryFind(new Iova(0x3000), out found));
        Assert.AreEqual(new HostAddress(0xc000), found.At(new Iova(0x3000)));
    }

    [TestMethod]
    public void What_is_said_again_or_added_starts_no_new_generation()
    {
        var iotlb = new DeviceIotlb();
        iotlb.Update(Translation(0x1000, 0x3000, 0xa000, DmaAccess.ReadWrite));
        IotlbSnapshot snapshot = iotlb.Snapshot;
        iotlb.Update(Translation(0x2000, 0x1000, 0xb000, DmaAccess.ReadWrite));
        Assert.AreSame(snapshot, iotlb.Snapshot);
        iotlb.Update(Translation(0x9000, 0x1000, 0xb000, DmaAccess.ReadWrite));
        iotlb.Invalidate(IovaRange.Of(new Iova(0x5000), 0x1000));
        Assert.AreEqual(snapshot.Generation, iotlb.Snapshot.Generation);
    }

    [TestMethod]
    public void The_last_byte_of_the_address_space_can_be_mapped_looked_up_and_invalidated()
    {
        var iotlb = new DeviceIotlb();
        using var view = new IotlbView(iotlb, questions => 0);
        var top = new IovaRange(new Iova(ulong.MaxValue - 0xfff), new Iova(ulong.MaxValue));
        iotlb.Update(new IotlbRange(top, new HostAddress(0x1000), DmaAccess.Write));
        view.Begin();
        Assert.AreEqual(
            TranslationStatus.Translated, view.Translate(top.First, 4096, DmaAccess.Write, out _, out uint usable));
        Assert.AreEqual(4096u, usable);
        Assert.AreEqual(
            TranslationStatus.Translated, view.Translate(top.Last, 1, DmaAccess.Write, out HostAddress host, out _));
        Assert.AreEqual(new HostAddress(0x1fff), host);
        var pieces = new IotlbPiece[4];
        Assert.AreEqual(2, iotlb.Snapshot.Lookup(Everything, DmaAccess.Write, pieces));
        Assert.AreEqual(TranslationStatus.Miss, pieces[0].Kind);
        Assert.AreEqual(top, pieces[1].Range);
        Assert.AreEqual(1, iotlb.Invalidate(Everything));
        Assert.AreEqual(0, iotlb.Snapshot.Count);
        Assert.AreEqual(1, iotlb.Snapshot.Lookup(Everything, DmaAccess.Write, pieces));
    }

    [TestMethod]
    public void What_is_cleared_was_not_invalidated()
    {
        var iotlb = new DeviceIotlb();
        iotlb.Update(Translation(0x1000, 0x1000, 0xa000, DmaAccess.Read));
        iotlb.Clear();
        Assert.AreEqual((0, 0), (iotlb.Snapshot.Count, iotlb.Counters.Invalidated));
        iotlb.Update(Translation(0x1000, 0x1000, 0xa000, DmaAccess.Read));
        iotlb.Invalidate(Everything);
        Assert.AreEqual((0, 1), (iotlb.Snapshot.Count, iotlb.Counters.Invalidated));
    }

    [TestMethod]
    public void A_range_known_to_be_forbidden_is_refused_and_not_missing()
    {
        var iotlb = new DeviceIotlb();
        iotlb.Update(new IotlbRange(Everything, default, DmaAccess.None));
        using var view = new IotlbView(iotlb, questions => 0);
        Assert.AreEqual(TranslationStatus.Denied, view.Translate(new Iova(0x1000), 1, DmaAccess.Read, out _, out _));
        Assert.AreEqual(1, iotlb.Counters.AccessFailures);
        Assert.AreEqual(0, iotlb.Counters.Misses);
    }

    [TestMethod]
    public void A_translation_beyond_what_a_process_can_address_is_not_taken()
    {
        var iotlb = new DeviceIotlb();
        Assert.ThrowsExactly<ArgumentOutOfRangeException>(
            () => iotlb.Update(Translation(0, 0x1000, ulong.MaxValue - 0xfff, DmaAccess.Read)));
        Assert.ThrowsExactly<ArgumentOutOfRangeException>(
            () => iotlb.Update(new IotlbRange(Everything, new HostAddress(0), DmaAccess.Read)));
        Assert.AreEqual(0, iotlb.Snapshot.Count);
    }

    [TestMethod]
    public void Nothing_is_allocated_on_a_hit_or_a_miss()
    {
        var iotlb = new DeviceIotlb();
        for (uint page = 0; page < 1000; page++)
        {
            iotlb.Update(Translation(page * 4096ul, 4096, 0x1000_0000 - (page * 8192ul), DmaAccess.ReadWrite));
        }

        using var view = new IotlbView(iotlb, questions => questions.Length);
        Touch(view, 2);
        long before = GC.GetAllocatedBytesForCurrentThread();
        Touch(view, 100);
        Assert.AreEqual(before, GC.GetAllocatedBytesForCurrentThread());
    }

    private static void Touch(IotlbView view, int rounds)
    {
        for (int round = 0; round < rounds; round++)
        {
            view.Begin();
            for (uint page = 0; page < 1100; page++)
            {
                view.Translate(new Iova((page * 4096ul) + 4000), 2000, DmaAccess.Write, out _, out _);
            }

            view.Ask();
        }
    }

    private static IotlbRange Translation(ulong iova, ulong length, ulong host, DmaAccess access) =>
        new(IovaRange.Of(new Iova(iova), length), new HostAddress(host), access);
}
