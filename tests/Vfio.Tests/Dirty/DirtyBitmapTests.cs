namespace Vfio.Tests;

[TestClass]
public sealed class DirtyBitmapTests(TestContext context)
{
    private const ulong Page = DirtyBitmap.PageSize;

    [TestMethod]
    [DataRow(0ul, 1ul, 0ul, 0ul)]
    [DataRow(4095ul, 2ul, 0ul, 1ul)]
    [DataRow(63 * 4096ul, 2 * 4096ul, 63ul, 64ul)]
    [DataRow(64 * 4096ul, 64 * 4096ul, 64ul, 127ul)]
    [DataRow(1ul, 200 * 4096ul, 0ul, 200ul)]
    public void A_range_marks_the_pages_that_hold_any_byte_of_it(ulong first, ulong length, ulong firstPage, ulong lastPage)
    {
        var bitmap = new DirtyBitmap(256 * Page);
        bitmap.Mark(new PoolOffset(first), length);
        for (ulong p = 0; p < 256; p++)
        {
            Assert.AreEqual(p >= firstPage && p <= lastPage, bitmap.IsMarked(new PoolOffset(p * Page)), $"page {p}");
        }

        Assert.AreEqual(lastPage - firstPage + 1, bitmap.Count);
    }

    [TestMethod]
    public void Nothing_is_marked_by_no_bytes_and_bytes_outside_are_refused()
    {
        var bitmap = new DirtyBitmap(10 * Page);
        bitmap.Mark(new PoolOffset(10 * Page), 0);
        Assert.AreEqual(0ul, bitmap.Count);
        Assert.ThrowsExactly<ArgumentOutOfRangeException>(() => bitmap.Mark(new PoolOffset(9 * Page), Page + 1));
        Assert.ThrowsExactly<ArgumentOutOfRangeException>(() => bitmap.Mark(new PoolOffset(ulong.MaxValue), 1));
    }

    [TestMethod]
    public void Random_marks_and_harvests_agree_with_a_set_of_pages()
    {
        Random random = Seed.Start(context);
        for (int round = 0; round < 50; round++)
        {
            ulong pages = (ulong)random.Next(1, 3000);
            var bitmap = new DirtyBitmap(pages * Page);
            var model = new HashSet<ulong>();
            for (int step = 0; step < 60; step++)
            {
                ulong first = (ulong)random.NextInt64((long)(pages * Page));
                ulong length = (ulong)random.NextInt64((long)Math.Min(pages * Page - first, 200 * Page)) + 1;
                bitmap.Mark(new PoolOffset(first), Math.Min(length, pages * Page - first));
                for (ulong p = first / Page; p <= (first + Math.Min(length, pages * Page - first) - 1) / Page; p++)
                {
                    model.Add(p);
                }

                if (random.Next(10) == 0)
                {
                    ulong[] words = new ulong[bitmap.Words];
                    bitmap.Harvest(words);
                    CollectionAssert.AreEquivalent(model.ToArray(), PagesOf(words).ToArray());
                    Assert.AreEqual(0ul, bitmap.Count);
                    if (random.Next(2) == 0)
                    {
                        bitmap.Merge(words);
                    }
                    else
                    {
                        model.Clear();
                    }
                }
            }

            Assert.AreEqual((ulong)model.Count, bitmap.Count);
        }
    }

    [TestMethod]
    public void No_mark_is_lost_while_several_mark_and_one_harvests()
    {
        const int Pages = 1024;
        const int Rounds = 20_000;
        var bitmap = new DirtyBitmap(Pages * Page);
        // Each marker counts, per page, how often it wrote; the harvester sums what it saw changed. A page that differs at the end without
        // a bit is a lost mark.
        int[] written = new int[Pages];
        int[] copied = new int[Pages];
        Thread[] markers = [.. Enumerable.Range(0, 3).Select(t => new Thread(() =>
        {
            var random = new Random(t);
            for (int i = 0; i < Rounds; i++)
            {
                int page = random.Next(Pages);
                Interlocked.Increment(ref written[page]);
                bitmap.Mark(new PoolOffset((ulong)page * Page), 1);
            }
        }))];
        Array.ForEach(markers, m => m.Start());
        while (markers.Any(m => m.IsAlive))
        {
            Copy();
        }

        Array.ForEach(markers, m => m.Join());
        Copy();
        CollectionAssert.AreEqual(written, copied);

        void Copy()
        {
            ulong[] words = new ulong[bitmap.Words];
            bitmap.Harvest(words);
            foreach (ulong page in PagesOf(words))
            {
                copied[page] = Volatile.Read(ref written[page]);
            }
        }
    }

    [TestMethod]
    public void Marking_allocates_nothing()
    {
        var bitmap = new DirtyBitmap(1 << 20);
        bitmap.Mark(new PoolOffset(0), 1);
        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < 100_000; i++)
        {
            bitmap.Mark(new PoolOffset((ulong)i & 0xfffff & ~0xffful), 4096);
        }

        Assert.AreEqual(0, GC.GetAllocatedBytesForCurrentThread() - before);
    }

    private static IEnumerable<ulong> PagesOf(ulong[] words)
    {
        for (ulong p = 0; p < (ulong)words.Length * 64; p++)
        {
            if ((words[p >> 6] >> (int)(p & 63) & 1) != 0)
            {
                yield return p;
            }
        }
    }
}
