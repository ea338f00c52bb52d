namespace Vfio.Tests;

[TestClass]
public sealed class IovaAllocatorTests(TestContext context)
{
    private const ulong Page = 4096;

    private static IovaRange Range(ulong first, ulong last) => new(new Iova(first), new Iova(last));

    [TestMethod]
    public void The_first_page_and_the_last_page_of_the_space_are_never_handed_out()
    {
        var allocator = new IovaAllocator([Range(0, 0x2fff), Range(ulong.MaxValue - 0x2fff, ulong.MaxValue)]);
        var got = new List<ulong>();
        while (allocator.TryAllocate(Page, default, Page, out IovaRange range))
        {
            got.Add(range.First.Value);
        }

        got.Sort();
        CollectionAssert.AreEqual(new[] { 0x1000ul, 0x2000ul, ulong.MaxValue - 0x2fff, ulong.MaxValue - 0x1fff }, got);
    }

    [TestMethod]
    public void A_range_never_spans_two_valid_ranges_that_touch()
    {
        var allocator = new IovaAllocator([Range(0x1000, 0x4fff), Range(0x5000, 0x8fff)]);
        Assert.IsFalse(allocator.TryAllocate(5 * Page, default, Page, out _));
        Assert.IsTrue(allocator.TryAllocate(4 * Page, default, Page, out IovaRange range));
        Assert.AreEqual(Range(0x5000, 0x8fff), range);
    }

    [TestMethod]
    public void New_valid_ranges_keep_what_is_handed_out_and_refuse_to_lose_it()
    {
        var allocator = new IovaAllocator([Range(0x1000, 0xffff)]);
        Assert.IsTrue(allocator.TryReserve(Range(0x4000, 0x5fff)));
        allocator.Update([Range(0x3000, 0x7fff)]);
        Assert.IsFalse(allocator.TryReserve(Range(0x5000, 0x5fff)));
        Assert.IsFalse(allocator.TryReserve(Range(0x2000, 0x2fff)));
        Assert.ThrowsExactly<InvalidOperationException>(() => allocator.Update([Range(0x5000, 0x7fff)]));
        Assert.ThrowsExactly<InvalidOperationException>(() => allocator.Release(Range(0x9000, 0x9fff)));
        allocator.Release(Range(0x4000, 0x5fff));
        Assert.IsTrue(allocator.TryReserve(Range(0x3000, 0x7fff)));
    }

    [TestMethod]
    public void Giving_back_twice_is_refused()
    {
        var allocator = new IovaAllocator([Range(0x1000, 0xffff)]);
        Assert.IsTrue(allocator.TryAllocate(2 * Page, default, Page, out IovaRange range));
        allocator.Release(range);
        Assert.ThrowsExactly<InvalidOperationException>(() => allocator.Release(range));
    }

    [TestMethod]
    public void What_was_given_back_last_is_found_again_and_is_part_of_what_is_free()
    {
        var allocator = new IovaAllocator([Range(0x1000, 0xffff)]);
        Assert.IsTrue(allocator.TryReserve(Range(0x1000, 0x3fff)));
        allocator.Release(Range(0x1000, 0x1fff));
        allocator.Release(Range(0x3000, 0x3fff));
        // Though the page before is alone and this one part of a large range.
        Assert.IsTrue(allocator.Clone().TryAllocate(Page, default, Page, out IovaRange range));
        Assert.AreEqual(Range(0x3000, 0x3fff), range);
        Assert.IsTrue(allocator.Clone().TryReserve(Range(0x3000, 0xffff)));
        // Not of that length; not at that place.
        Assert.IsTrue(allocator.Clone().TryAllocate(2 * Page, default, Page, out range));
        Assert.AreEqual(Range(0x3000, 0x4fff), range);
        Assert.IsTrue(allocator.Clone().TryAllocate(Page, default, 2 * Page, out range));
        Assert.AreEqual(Range(0x4000, 0x4fff), range);
        Assert.AreEqual(13 * Page, allocator.LargestFree);
        Assert.IsTrue(allocator.TryAllocate(13 * Page, default, Page, out _));
    }

    [TestMethod]
    public void Random_allocations_agree_with_a_set_of_pages()
    {
        Random random = Seed.Start(context);
        for (int round = 0; round < 30; round++)
        {
            // Pages 1 to 255 and 300 to 511 are valid.
            var allocator = new IovaAllocator([Range(0, 256 * Page - 1), Range(300 * Page, 512 * Page - 1)]);
            var free = new SortedSet<ulong>(Enumerable.Range(1, 255).Concat(Enumerable.Range(300, 212)).Select(p => (ulong)p));
            var held = new List<IovaRange>();
            ulong last = 0;
            for (int step = 0; step < 400; step++)
            {
                if (held.Count > 0 && random.Next(2) == 0)
                {
                    int i = random.Next(held.Count);
                    IovaRange range = held[i];
                    held.RemoveAt(i);
                    if (range.Length > Page && random.Next(3) == 0)
                    {
                        // Part of it first.
                        ulong cut = range.First.Value + Page;
                        allocator.Release(Range(cut, range.Last.Value));
                        Free(Range(cut, range.Last.Value));
                        range = Range(range.First.Value, cut - 1);
                    }

                    allocator.Release(range);
                    Free(range);
                    last = range.Length;
                }
                else
                {
                    // Often what was given back last, and often not at its place.
                    ulong pages = last != 0 && random.Next(3) == 0 ? last / Page : (ulong)random.Next(1, 24);
                    ulong modulus = Page << random.Next(0, 6);
                    var host = new HostAddress((ulong)random.Next(0, 64) * Page);
                    bool got = allocator.TryAllocate(pages * Page, host, modulus, out IovaRange range);
                    bool expected = free.Any(p => (unchecked((p * Page) - host.Value) & (modulus - 1)) == 0 && Enumerable.Range(0, (int)pages).All(o => free.Contains(p + (ulong)o)));
                    Assert.AreEqual(expected, got, $"round {round} step {step}: {pages} pages modulo {modulus:x} for {host}");
                    if (got)
                    {
                        Assert.AreEqual(0ul, unchecked(range.First.Value - host.Value) & (modulus - 1));
                        Assert.AreEqual(pages * Page, range.Length);
                        for (ulong p = range.First.Value / Page; p <= range.Last.Value / Page; p++)
                        {
                            Assert.IsTrue(free.Remove(p), $"page {p} was handed out twice");
                        }

                        held.Add(range);
                    }
                }

                if (random.Next(8) == 0)
                {
                    Assert.AreEqual(LongestRun() * Page, allocator.LargestFree, $"round {round} step {step}");
                }

                if (random.Next(8) == 0)
                {
                    ulong page = (ulong)random.Next(0, 512);
                    IovaRange wanted = Range(page * Page, ((page + 1) * Page) - 1);
                    Assert.AreEqual(free.Contains(page), allocator.Clone().TryReserve(wanted), $"round {round} step {step}: page {page} of a copy");
                    bool reserved = allocator.TryReserve(wanted);
                    Assert.AreEqual(free.Remove(page), reserved, $"round {round} step {step}: page {page}");
                    if (reserved)
                    {
                        held.Add(wanted);
                    }
                }
            }

            ulong LongestRun()
            {
                ulong longest = 0;
                ulong run = 0;
                ulong previous = 0;
                foreach (ulong p in free)
                {
                    run = p == previous + 1 ? run + 1 : 1;
                    previous = p;
                    longest = Math.Max(longest, run);
                }

                return longest;
            }

            void Free(IovaRange range)
            {
                for (ulong p = range.First.Value / Page; p <= range.Last.Value / Page; p++)
                {
                    free.Add(p);
                }
            }
        }
    }
}
