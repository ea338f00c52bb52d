using Vfio.Linux;

namespace Vfio.Tests;

[TestClass]
public sealed class PinPlannerTests(TestContext context)
{
    private const ulong Page = 4096;
    private const ulong MiB = 1 << 20;
    private const ulong GiB = 1 << 30;

    private static readonly PinLimits Wide = new(
        [new IovaRange(new Iova(0), new Iova(0xfedf_ffff)), new IovaRange(new Iova(0xfef0_0000), new Iova((1ul << 39) - 1))],
        Page | 2 * MiB | GiB, 65535, MemlockLimit.None, Assumed: false);

    private static PinRange Range(ulong first, ulong length, DmaAccess access = DmaAccess.ReadWrite, MemoryBacking backing = MemoryBacking.Pages4KiB) =>
        new(HostRange.Of(new HostAddress(first), length), access, backing);

    [TestMethod]
    public void Touching_and_overlapping_ranges_in_any_order_are_one_map()
    {
        PinPlan plan = PinPlanner.Plan([Range(0x7f0000003000, 0x2000), Range(0x7f0000000000, 0x2000), Range(0x7f0000001000, 0x2000)], Wide);
        Assert.AreEqual(1, plan.MapCalls);
        Assert.AreEqual(5 * Page, plan.LockedBytes);
        Assert.IsTrue(plan.CanWork);
    }

    [TestMethod]
    public void A_pool_of_128_MiB_of_2_MiB_pages_is_one_map_that_large_pages_can_serve()
    {
        PinPlan plan = PinPlanner.Plan([Range(0x7f0000200000, 128 * MiB, backing: MemoryBacking.Huge2MiB)], Wide);
        Assert.AreEqual(1, plan.MapCalls);
        Assert.AreEqual(2 * MiB, plan.Maps[0].LargestPage);
        Assert.AreEqual(0ul, plan.Maps[0].Mapping.Iova.First.Value % (2 * MiB));
    }

    [TestMethod]
    public void Gigabyte_pages_get_addresses_that_are_congruent_modulo_1_GiB()
    {
        PinPlan plan = PinPlanner.Plan([Range(0x7f0040000000 - Page, 2 * GiB + 2 * Page, backing: MemoryBacking.Huge1GiB)], Wide);
        Assert.AreEqual(GiB, plan.Maps[0].LargestPage);
        Assert.AreEqual(0ul, unchecked(plan.Maps[0].Mapping.Iova.First.Value - plan.Maps[0].Mapping.Host.First.Value) % GiB);
    }

    [TestMethod]
    public void Different_access_is_a_different_map_and_overlap_gets_what_either_asks()
    {
        PinPlan plan = PinPlanner.Plan([Range(0x10000, 0x4000, DmaAccess.Read), Range(0x12000, 0x4000, DmaAccess.Write)], Wide);
        CollectionAssert.AreEqual(
            new[] { (0x10000ul, DmaAccess.Read), (0x12000ul, DmaAccess.ReadWrite), (0x14000ul, DmaAccess.Write) },
            plan.Maps.Select(m => (m.Mapping.Host.First.Value, m.Mapping.Access)).ToArray());
    }

    [TestMethod]
    public void A_grain_cuts_maps_so_that_none_is_larger_than_what_may_be_freed_alone()
    {
        PinPlan plan = PinPlanner.Plan([Range(0x7f0000200000, 128 * MiB, backing: MemoryBacking.Huge2MiB)], Wide, new PinOptions { Grain = 16 * MiB });
        // The first and the last are cut at multiples of the grain, which the range does not start at.
        Assert.AreEqual(9, plan.MapCalls);
        Assert.AreEqual(16 * MiB, plan.LargestMap);
        IovaRange? before = null;
        foreach (PinMap map in plan.Maps)
        {
            Assert.IsTrue(before is null || before.Value.Last.Value + 1 == map.Mapping.Iova.First.Value, "the IOVAs stay in one piece");
            before = map.Mapping.Iova;
        }
    }

    [TestMethod]
    public void A_run_that_no_free_range_holds_is_cut_unless_it_must_be_whole()
    {
        PinLimits narrow = Wide with { ValidRanges = [new IovaRange(new Iova(0x1000), new Iova(0x4fff)), new IovaRange(new Iova(0x8000), new Iova(0xafff))] };
        PinPlan plan = PinPlanner.Plan([Range(0x100000, 6 * Page)], narrow);
        CollectionAssert.AreEqual(new[] { 4 * Page, 2 * Page }, plan.Maps.Select(m => m.Mapping.Host.Length).ToArray());
        Assert.IsTrue(plan.CanWork);

        PinPlan whole = PinPlanner.Plan([Range(0x100000, 6 * Page)], narrow, new PinOptions { Contiguous = true });
        Assert.AreEqual("IOVA space", whole.Problems.Single().Limit);
        Assert.AreEqual(2 * Page, whole.Problems.Single().Excess);
        PinPlan tooMuch = PinPlanner.Plan([Range(0x100000, 8 * Page)], narrow);
        Assert.AreEqual(Page, tooMuch.Problems.Single().Need);
    }

    [TestMethod]
    public void Limits_are_named_with_need_excess_and_cure_before_anything_is_touched()
    {
        PinLimits small = Wide with { AvailableEntries = 3, Memlock = new MemlockLimit(8 * MiB, 1 * MiB, Exempt: false) };
        PinPlan plan = PinPlanner.Plan([Range(0x7f0000200000, 16 * MiB)], small, new PinOptions { Grain = 2 * MiB });
        Assert.AreEqual("dma_entry_limit RLIMIT_MEMLOCK", string.Join(" ", plan.Problems.Select(p => p.Limit)));
        Assert.AreEqual(5ul, plan.Problems[0].Excess);
        Assert.AreEqual(9 * MiB, plan.Problems[1].Excess);
        Assert.Contains("LimitMEMLOCK=17825792", plan.Problems[1].Cure);
        Assert.Contains("memlock 17408", plan.Problems[1].Cure);
        LinuxException e = Assert.ThrowsExactly<LinuxException>(() => plan.ThrowIfImpossible("pool demo"));
        Assert.AreEqual(Errno.ENOSPC, e.Errno);
        Assert.Contains("8 entries needed, 3 entries there, 5 entries short", e.Message);

        PinPlan exempt = PinPlanner.Plan([Range(0x7f0000200000, 16 * MiB)], small with { Memlock = new MemlockLimit(8 * MiB, 0, Exempt: true) });
        Assert.IsTrue(exempt.CanWork);
    }

    [TestMethod]
    public void A_grain_that_would_take_millions_of_maps_is_refused_without_listing_them()
    {
        PinPlan plan = PinPlanner.Plan([Range(0x7f0000200000, 64 * 1024 * MiB)], Wide, new PinOptions { Grain = Page });
        Assert.IsEmpty(plan.Maps);
        Assert.AreEqual("maps of a plan", plan.Problems.Single().Limit);
        Assert.AreEqual(16ul << 20, plan.Problems.Single().Need);
        // What fits is planned all the same.
        PinPlan both = PinPlanner.Plan(
            [Range(0x7f0000200000, 64 * 1024 * MiB), Range(0x7f2000000000, Page)], Wide, new PinOptions { Grain = Page });
        Assert.AreEqual(Page, both.Maps.Single().Mapping.Host.Length);
        Assert.Contains("use a larger grain", Assert.ThrowsExactly<LinuxException>(() => plan.ThrowIfImpossible("pool demo")).Message);
    }

    [TestMethod]
    public void Ranges_that_are_not_whole_pages_are_refused()
    {
        Assert.ThrowsExactly<ArgumentException>(() => PinPlanner.Plan([Range(0x1001, Page)], Wide));
        Assert.ThrowsExactly<ArgumentException>(() => PinPlanner.Plan([Range(0x1000, 100)], Wide));
        Assert.ThrowsExactly<ArgumentException>(() => PinPlanner.Plan([Range(0x1000, Page, DmaAccess.None)], Wide));
        Assert.ThrowsExactly<ArgumentException>(() => PinPlanner.Plan([Range(0x1000, Page)], Wide, new PinOptions { Grain = 12288 }));
    }

    [TestMethod]
    public void A_plan_prints_as_lines_that_people_can_read()
    {
        string text = PinPlanner.Plan([Range(0x7f0000200000, 4 * MiB, backing: MemoryBacking.Huge2MiB)], Wide).ToString();
        Assert.Contains("map   iova 0x200000-0x5fffff -> 0x7f0000200000-0x7f00005fffff (device ReadWrite) 4 MiB, IOMMU pages up to 2 MiB", text);
        Assert.Contains("1 map calls, 1 entries, 4 MiB count as locked", text);
    }

    [TestMethod]
    public void Random_plans_agree_with_a_map_of_pages()
    {
        Random random = Seed.Start(context);
        for (int round = 0; round < 300; round++)
        {
            var ranges = new List<PinRange>();
            var wanted = new SortedDictionary<ulong, DmaAccess>();
            for (int i = random.Next(1, 8); i > 0; i--)
            {
                ulong first = (ulong)random.Next(16, 96);
                ulong pages = (ulong)random.Next(1, 24);
                var access = (DmaAccess)random.Next(1, 4);
                ranges.Add(Range(first * Page, pages * Page, access, (MemoryBacking)random.Next(4)));
                for (ulong p = first; p < first + pages; p++)
                {
                    wanted[p] = wanted.GetValueOrDefault(p) | access;
                }
            }

            // Some of it is pinned already.
            var live = new LiveMappings();
            var limits = Wide with { ValidRanges = [new IovaRange(new Iova(0x1000), new Iova(0x3ffff)), new IovaRange(new Iova(0x100000), new Iova(0x1fffff))] };
            var allocator = new IovaAllocator(limits.ValidRanges);
            for (ulong p = 16; p < 120; p += (ulong)random.Next(8, 30))
            {
                ulong pages = (ulong)random.Next(1, 8);
                Assert.IsTrue(allocator.TryAllocate(pages * Page, default, Page, out IovaRange at));
                Assert.IsTrue(live.IsFree(HostRange.Of(new HostAddress(p * Page), pages * Page), out LiveMappings.Place place));
                live.InsertAfter(place, new LiveMapping
                {
                    Host = new HostAddress(p * Page),
                    Iova = at.First,
                    Length = pages * Page,
                    References = 1,
                    Access = (DmaAccess)random.Next(1, 4),
                });
            }

            ulong grain = random.Next(2) == 0 ? 0 : Page << random.Next(0, 5);
            Dictionary<ulong, DmaAccess> rest = wanted.Where(w => !live.Overlapping(HostRange.Of(new HostAddress(w.Key * Page), Page)).Any()).ToDictionary();
            PinPlan plan = PinPlanner.Plan(ranges, limits, new PinOptions { Grain = grain }, allocator, live);
            Assert.IsTrue(plan.CanWork);
            int maps = Maps(rest, grain / Page);
            Assert.AreEqual((maps, maps, (ulong)rest.Count * Page), (plan.MapCalls, plan.Entries, plan.LockedBytes));
            var mapped = new Dictionary<ulong, DmaAccess>();
            var iovas = new HashSet<ulong>();
            DmaMapping? before = null;
            foreach (DmaMapping map in plan.Maps.Select(m => m.Mapping))
            {
                Assert.AreEqual(map.Host.Length, map.Iova.Length);
                Assert.IsTrue(grain == 0 || map.Host.Length <= grain);
                Assert.IsTrue(limits.ValidRanges.Any(v => v.Contains(map.Iova)));
                for (ulong o = 0; o < map.Host.Length; o += Page)
                {
                    Assert.IsTrue(mapped.TryAdd((map.Host.First + o).Value / Page, map.Access), "mapped twice");
                    Assert.IsTrue(iovas.Add((map.Iova.First + o).Value), "iova used twice");
                }

                // Maximal: what touches in both spaces with one access would have been one map.
                Assert.IsFalse(grain == 0 && before is { } b && b.Access == map.Access
                    && b.Host.Last.Value + 1 == map.Host.First.Value && b.Iova.Last.Value + 1 == map.Iova.First.Value);
                before = map;
            }

            foreach ((ulong page, DmaAccess access) in wanted)
            {
                LiveMapping? pinned = live.Overlapping(HostRange.Of(new HostAddress(page * Page), Page)).Select(m => (LiveMapping?)m).SingleOrDefault();
                bool isNew = mapped.Remove(page, out DmaAccess got);
                bool isRefused = plan.Refused.Any(r => r.Host.Contains(new HostAddress(page * Page)));
                bool isReferenced = pinned is { } m2 && plan.References.Contains(m2.Mapping);
                Assert.AreEqual(pinned is null, isNew, $"page {page}");
                Assert.IsTrue(!isNew || got == access, $"page {page}");
                Assert.AreEqual(pinned is { } m3 && (m3.Access & access) != access, isRefused, $"page {page}");
                Assert.IsTrue(pinned is null || isRefused || isReferenced, $"page {page}");
            }

            Assert.IsEmpty(mapped, "pages that nobody asked for");
        }
    }

    [TestMethod]
    public void Random_plans_over_memory_of_all_kinds_of_pages_are_congruent_as_a_map_of_units_says()
    {
        Random random = Seed.Start(context);
        const ulong BlockOf2MiB = 2;
        const ulong BlockOf1GiB = 1024;
        for (int round = 0; round < 100; round++)
        {
            // By units of 1 MiB: who asks for them, and the smallest pages that anybody says they are made of.
            var ranges = new List<PinRange>();
            var wanted = new Dictionary<ulong, DmaAccess>();
            var pages = new Dictionary<ulong, ulong>();
            for (int i = random.Next(1, 7); i > 0; i--)
            {
                var backing = (MemoryBacking)random.Next(4);
                // Memory of large pages starts and ends with them, as far as others leave it.
                ulong step = backing.PageSize() == Page ? 1 : BlockOf2MiB;
                ulong first = BlockOf1GiB + ((ulong)random.Next(0, 3000) / step * step);
                ulong count = (ulong)random.Next(1, 2500) * step;
                var access = (DmaAccess)random.Next(1, 4);
                ranges.Add(Range(first * MiB, count * MiB, access, backing));
                for (ulong unit = first; unit < first + count; unit++)
                {
                    wanted[unit] = wanted.GetValueOrDefault(unit) | access;
                    pages[unit] = Math.Min(pages.GetValueOrDefault(unit, GiB), backing.PageSize());
                }
            }

            ulong grain = random.Next(3) switch { 0 => 0, 1 => MiB << random.Next(0, 4), _ => 256 * MiB << random.Next(0, 3) };
            PinLimits limits = Wide with { PageSizes = random.Next(4) == 0 ? Page | 2 * MiB : Page | 2 * MiB | GiB };
            PinPlan plan = PinPlanner.Plan(ranges, limits, new PinOptions { Grain = grain });
            var known = new Dictionary<ulong, ulong>();
            int maps = Maps(wanted, grain / MiB);
            Assert.AreEqual((maps, maps, (ulong)wanted.Count * MiB), (plan.MapCalls, plan.Entries, plan.LockedBytes));
            foreach ((DmaMapping map, ulong largest) in plan.Maps)
            {
                ulong first = map.Host.First.Value / MiB;
                ulong last = map.Host.Last.Value / MiB;
                ulong page = LargestPageOfRun(first);
                ulong shift = unchecked(map.Iova.First.Value - map.Host.First.Value);
                Assert.AreEqual(0ul, shift % page, $"{map} can use pages of {page}");
                // Of the run's pages the largest that this part of it has a whole one of.
                ulong wholly = new[] { GiB, 2 * MiB, Page }.First(s => s <= page && HoldsBlock(first, last, s));
                Assert.AreEqual(wholly, largest, $"{map}");
            }

            // The largest block that lies in the run, wholly in memory of such pages.
            ulong LargestPageOfRun(ulong unit)
            {
                if (known.TryGetValue(unit, out ulong found))
                {
                    return found;
                }

                ulong first = unit;
                while (wanted.TryGetValue(first - 1, out DmaAccess before) && before == wanted[unit])
                {
                    first--;
                }

                ulong page = Page;
                ulong end = first;
                for (ulong u = first; wanted.TryGetValue(u, out DmaAccess access) && access == wanted[unit]; u++, end++)
                {
                    foreach (ulong size in (ulong[])[2 * MiB, GiB])
                    {
                        bool allowed = (limits.PageSizes & size) != 0 && (grain == 0 || size <= grain) && size > page;
                        if (allowed && u % (size / MiB) == 0 && Units(u, size).All(b => wanted.GetValueOrDefault(b) == wanted[unit] && pages[b] >= size))
                        {
                            page = size;
                        }
                    }
                }

                while (end > first)
                {
                    known[--end] = page;
                }

                return page;
            }
        }

        static IEnumerable<ulong> Units(ulong first, ulong size)
        {
            for (ulong unit = first; unit < first + (size / MiB); unit++)
            {
                yield return unit;
            }
        }

        static bool HoldsBlock(ulong first, ulong last, ulong size)
        {
            ulong units = Math.Max(size / MiB, 1);
            ulong aligned = (first + units - 1) / units * units;
            return aligned + units - 1 <= last;
        }
    }

    // Of pages that touch and have one access each piece between two multiples of the grain is a map; with no grain all of them are.
    private static int Maps(Dictionary<ulong, DmaAccess> pages, ulong grain)
    {
        int maps = 0;
        foreach ((ulong page, DmaAccess access) in pages)
        {
            bool goesOn = pages.TryGetValue(page - 1, out DmaAccess before) && before == access && (grain == 0 || page % grain != 0);
            maps += goesOn ? 0 : 1;
        }

        return maps;
    }
}
