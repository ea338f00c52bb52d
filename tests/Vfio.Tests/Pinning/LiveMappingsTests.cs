namespace Vfio.Tests;

[TestClass]
public sealed class LiveMappingsTests
{
    [TestMethod]
    public void Noting_a_mapping_down_and_striking_it_out_allocates_nothing_once_there_is_room()
    {
        const int Entries = 2000;
        var live = new LiveMappings();
        _ = Fill(live, Entries);
        Assert.AreEqual((Entries, 0L, 0, 0L), Fill(live, Entries));
    }

    // Grows to several chunks and shrinks from its low end, twice, so that chunks are split, emptied and used anew.
    [TestMethod]
    [DataRow(1)]
    [DataRow(2)]
    [DataRow(3)]
    public void Random_mappings_are_where_a_sorted_list_has_them(int seed)
    {
        const int Pages = 3000;
        var random = new Random(seed);
        var live = new LiveMappings();
        var model = new SortedDictionary<int, int>();
        for (int step = 0; step < 8_000; step++)
        {
            bool grows = step / 2000 % 2 == 0;
            int page = grows || model.Count == 0 ? random.Next(Pages) : model.First().Key;
            int length = random.Next(1, 4);
            bool isFree = !model.Any(m => m.Key < page + length && page < m.Key + m.Value);
            if (random.Next(10) < (grows ? 9 : 1))
            {
                Assert.AreEqual(isFree, live.IsFree(Host(page, length), out LiveMappings.Place place), $"seed {seed}, step {step}");
                if (isFree)
                {
                    live.InsertAfter(place, new LiveMapping { Host = Host(page, length).First, Length = (ulong)length * 4096, References = page });
                    Assert.IsTrue(live.TryFind(Host(page, length).First, out place), $"seed {seed}, step {step}");
                    Assert.AreEqual(page, live[place].References, $"seed {seed}, step {step}");
                    model.Add(page, length);
                }
            }
            else
            {
                KeyValuePair<int, int> holder = model.LastOrDefault(m => m.Key <= page && page < m.Key + m.Value);
                Assert.AreEqual(holder.Value != 0, live.TryFind(Host(page, 1).First, out LiveMappings.Place place), $"seed {seed}, step {step}");
                if (holder.Value != 0)
                {
                    Assert.AreEqual(holder.Key, live[place].References, $"seed {seed}, step {step}");
                    live.Remove(place);
                    model.Remove(holder.Key);
                }
            }

            Assert.AreEqual((model.Count, (ulong)model.Values.Sum() * 4096), (live.Count, live.Bytes), $"seed {seed}, step {step}");
            if (step % 500 == 499)
            {
                CollectionAssert.AreEqual(model.Keys.ToList(), live.All().Select(m => m.References).ToList(), $"seed {seed}, step {step}");
                CollectionAssert.AreEqual(
                    model.Where(m => m.Key < page + 50 && page < m.Key + m.Value).Select(m => m.Key).ToList(),
                    live.Overlapping(Host(page, 50)).Select(m => m.References).ToList(), $"seed {seed}, step {step}");
            }
        }

        static HostRange Host(int page, int pages) => HostRange.Of(new HostAddress(0x1000_0000UL + ((ulong)page * 4096)), (ulong)pages * 4096);
    }

    private static (int Noted, long AllocatedForIt, int Left, long AllocatedForStrikingOut) Fill(LiveMappings live, int entries)
    {
        long allocated = 0;
        for (int i = 0; i < entries; i++)
        {
            // Upwards, and between what is there.
            var host = new HostAddress(0x1000_0000UL + ((ulong)(i * 37 % entries) * 4096));
            long before = GC.GetAllocatedBytesForCurrentThread();
            Assert.IsTrue(live.IsFree(HostRange.Of(host, 4096), out LiveMappings.Place place));
            live.InsertAfter(place, new LiveMapping { Host = host, Length = 4096, References = 1 });
            allocated += GC.GetAllocatedBytesForCurrentThread() - before;
        }

        int noted = live.Count;
        long removing = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < entries; i++)
        {
            _ = live.TryFind(new HostAddress(0x1000_0000UL + ((ulong)i * 4096)), out LiveMappings.Place place);
            live.Remove(place);
        }

        return (noted, allocated, live.Count, GC.GetAllocatedBytesForCurrentThread() - removing);
    }
}
