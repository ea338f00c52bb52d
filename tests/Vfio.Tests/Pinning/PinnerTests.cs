using Vfio.Linux;

namespace Vfio.Tests;

[TestClass]
public sealed class PinnerTests(TestContext context)
{
    private const ulong Page = PinRig.Page;

    [TestMethod]
    public void A_range_is_one_call_and_the_device_reaches_it_by_iova()
    {
        using var rig = new PinRig();
        HostRange memory = rig.Memory(512);
        using (RegisteredMemory registered = rig.Pinner.Register([PinRig.ReadWrite(memory)]))
        {
            Assert.AreEqual(1, rig.Pinner.MapCalls);
            Assert.IsTrue(registered.TryTranslate(memory.First + 5000, out Iova iova, out ulong contiguous));
            Assert.AreEqual(memory.Length - 5000, contiguous);
            Assert.IsTrue(rig.Device.WriteMemory(iova, [7, 8, 9]));
            unsafe
            {
                Assert.AreEqual(8, ((byte*)memory.First.Value)[5001]);
            }

            Assert.IsFalse(registered.TryTranslate(memory.Last + 1, out _, out _));
        }

        rig.AssertNothingPinned();
    }

    [TestMethod]
    public void A_free_range_is_one_call_of_the_kernel_and_aligned_for_large_pages()
    {
        using var rig = new PinRig();
        HostRange memory = rig.Memory(1024);
        int before = rig.Kernel.Calls.Count;
        using (RegisteredMemory registered = rig.Pinner.Register(
            new PinRange(memory, DmaAccess.ReadWrite, MemoryBacking.Transparent), new PinOptions { Populate = false }))
        {
            Assert.AreEqual(1, rig.Kernel.Calls.Count - before, "no question before, none after");
            DmaMapping mapping = registered.Mappings.Single();
            Assert.AreEqual(memory, mapping.Host);
            Assert.AreEqual(0ul, (mapping.Host.First.Value ^ mapping.Iova.First.Value) & ((2 << 20) - 1));
            Assert.AreEqual(mapping, rig.Pinner.Mappings().Single());
        }

        rig.AssertNothingPinned();
    }

    [TestMethod]
    public void A_limit_that_the_kernel_finds_first_is_explained_and_leaves_nothing()
    {
        using var rig = new PinRig(k => (k.MemlockLimit, k.EntryLimit) = (100 * Page, 1));
        rig.Tell("/proc/self/limits", "Max locked memory         409600               409600               bytes     \n");
        rig.Tell("/proc/self/status", "Name:\tx\nVmLck:\t       0 kB\nCapEff:\t0000000000000000\n");
        PinOptions populated = new() { Populate = false };
        LinuxException e = Assert.ThrowsExactly<LinuxException>(() => rig.Pinner.Register(PinRig.ReadWrite(rig.Memory(101)), populated));
        Assert.Contains("RLIMIT_MEMLOCK: 404 KiB needed, 400 KiB there, 4 KiB short", e.Message);
        Assert.AreEqual(1, rig.Pinner.MapCalls, "the one that was refused");
        rig.AssertNothingPinned();

        using RegisteredMemory last = rig.Pinner.Register(PinRig.ReadWrite(rig.Memory(1)), populated);
        e = Assert.ThrowsExactly<LinuxException>(() => rig.Pinner.Register(PinRig.ReadWrite(rig.Memory(1)), populated));
        Assert.Contains("1 entries needed, 0 entries there, 1 entries short", e.Message);
        Assert.AreEqual((1, Page), (rig.Pinner.EntriesUsed, rig.Pinner.PinnedBytes));
    }

    [TestMethod]
    public void Memory_that_is_not_in_whole_pages_is_refused_whatever_the_way()
    {
        using var rig = new PinRig();
        HostRange memory = rig.Memory(2);
        foreach (bool populate in new[] { true, false })
        {
            PinOptions options = new() { Populate = populate };
            Assert.ThrowsExactly<ArgumentException>(
                () => rig.Pinner.Register(PinRig.ReadWrite(HostRange.Of(memory.First + 1, Page)), options));
            Assert.ThrowsExactly<ArgumentException>(
                () => rig.Pinner.Register(PinRig.ReadWrite(HostRange.Of(memory.First, Page - 1)), options));
            Assert.ThrowsExactly<ArgumentException>(() => rig.Pinner.Register(new PinRange(memory, DmaAccess.None), options));
        }

        Assert.AreEqual(0, rig.Pinner.MapCalls);
    }

    [TestMethod]
    public void Pinning_what_is_pinned_makes_no_call_and_the_last_release_unmaps()
    {
        using var rig = new PinRig();
        HostRange memory = rig.Memory(16);
        RegisteredMemory all = rig.Pinner.Register([PinRig.ReadWrite(memory)]);
        RegisteredMemory again = rig.Pinner.Register([new PinRange(HostRange.Of(memory.First + (4 * Page), Page), DmaAccess.Read)]);
        Iova page = rig.Pinner.PinPage(memory.First + (5 * Page), DmaAccess.Write);
        Assert.AreEqual(all.Mappings[0].Iova.First + (5 * Page), page);
        Assert.AreEqual(1, rig.Pinner.MapCalls);
        all.Dispose();
        again.Dispose();
        Assert.AreEqual(0, rig.Pinner.UnmapCalls);
        Assert.AreEqual(16ul, rig.Kernel.LockedPages);
        rig.Pinner.ReleasePage(memory.First + (5 * Page));
        Assert.AreEqual(1, rig.Pinner.UnmapCalls);
        rig.AssertNothingPinned();
        all.Dispose();
        Assert.ThrowsExactly<InvalidOperationException>(() => rig.Pinner.ReleasePage(memory.First));
    }

    [TestMethod]
    public void What_is_partly_pinned_maps_only_the_rest()
    {
        using var rig = new PinRig();
        HostRange memory = rig.Memory(10);
        using RegisteredMemory middle = rig.Pinner.Register([PinRig.ReadWrite(HostRange.Of(memory.First + (4 * Page), 2 * Page))]);
        using (RegisteredMemory all = rig.Pinner.Register([PinRig.ReadWrite(memory)]))
        {
            Assert.AreEqual(3, rig.Pinner.MapCalls);
            Assert.HasCount(3, all.Mappings);
            Assert.AreEqual(10ul, rig.Kernel.LockedPages);
        }

        Assert.AreEqual(2ul, rig.Kernel.LockedPages);
    }

    [TestMethod]
    public void More_access_than_what_is_pinned_has_is_refused_with_the_cure()
    {
        using var rig = new PinRig();
        HostRange memory = rig.Memory(4);
        using RegisteredMemory reader = rig.Pinner.Register([new PinRange(memory, DmaAccess.Read)]);
        LinuxException e = Assert.ThrowsExactly<LinuxException>(() => rig.Pinner.Register([PinRig.ReadWrite(memory)]));
        Assert.Contains("the device may only Read there, not ReadWrite", e.Message);
        Assert.ThrowsExactly<LinuxException>(() => rig.Pinner.PinPage(memory.First, DmaAccess.Write));
    }

    [TestMethod]
    public void A_fixed_iova_is_used_and_one_that_is_taken_is_refused()
    {
        using var rig = new PinRig();
        HostRange memory = rig.Memory(4);
        HostRange other = rig.Memory(4);
        var at = new Iova(0x1234_5000);
        using RegisteredMemory registered = rig.Pinner.Register([PinRig.ReadWrite(memory)], new PinOptions { At = at });
        Assert.AreEqual(at, registered.Mappings[0].Iova.First);
        LinuxException e = Assert.ThrowsExactly<LinuxException>(
            () => rig.Pinner.Register([PinRig.ReadWrite(other)], new PinOptions { At = at + Page }));
        Assert.AreEqual(Errno.EEXIST, e.Errno);
        Assert.Contains("choose another IOVA", e.Message);
        Assert.ThrowsExactly<LinuxException>(() => rig.Pinner.Register([PinRig.ReadWrite(other)], new PinOptions { At = new Iova(0xfee0_0000) }));
        Assert.AreEqual(1, rig.Pinner.EntriesUsed);
    }

    // What the kernel has mapped must not be lost because there is no memory for it.
    [TestMethod]
    public void What_is_pinned_is_noted_down_before_the_kernel_is_called_and_nothing_is_allocated_after()
    {
        var kernel = new QuietKernel();
        using var descriptor = new FileDescriptor(kernel, 3);
        var pinner = new Pinner(new Type1Iommu(kernel, descriptor));
        var range = new PinRange(HostRange.Of(new HostAddress(0x7f00_0000_0000), 512 * Page), DmaAccess.ReadWrite);
        var options = new PinOptions { Populate = false };
        // The first time is the compiler's.
        pinner.Register(range, options).Dispose();
        int entries = 0;
        long allocated = 0;
        kernel.Called = () => (entries, allocated) = (pinner.EntriesUsed, GC.GetAllocatedBytesForCurrentThread());
        RegisteredMemory registered = pinner.Register(range, options);
        Assert.AreEqual((1, 0L), (entries, GC.GetAllocatedBytesForCurrentThread() - allocated));
        kernel.Called = null;
        registered.Dispose();
    }

    // Each release leaves one more hole in the IOVAs, and noting holes down takes memory now and then.
    [TestMethod]
    public void What_the_kernel_has_unmapped_is_noted_as_free_without_memory_for_it()
    {
        const ulong Pages = 64;
        var kernel = new QuietKernel();
        using var descriptor = new FileDescriptor(kernel, 3);
        var first = new HostAddress(0x7f00_0000_0000);
        // The first time is the compiler's.
        Round();
        (long before, long after, int left) = Round();
        Assert.AreEqual((0L, (int)Pages / 2), (after, left));
        Assert.AreNotEqual(0, before, "no hole needed memory: the test shows nothing");

        // Allocated before and after the kernel's calls.
        (long Before, long After, int Left) Round()
        {
            var pinner = new Pinner(new Type1Iommu(kernel, descriptor));
            Iova[] pinned = [.. Enumerable.Range(0, (int)Pages).Select(p => pinner.PinPage(first + ((ulong)p * Page), DmaAccess.ReadWrite))];

            (long before, long after, long called) = (0, 0, 0);
            kernel.Called = () => called = GC.GetAllocatedBytesForCurrentThread();
            for (ulong p = 0; p < Pages; p += 2)
            {
                long begin = GC.GetAllocatedBytesForCurrentThread();
                pinner.ReleasePage(first + (p * Page));
                after += GC.GetAllocatedBytesForCurrentThread() - called;
                before += called - begin;
            }

            kernel.Called = null;
            int left = pinner.EntriesUsed;
            // The holes are the smallest that is free, so they are taken first.
            CollectionAssert.AreEquivalent(
                pinned.Where((_, p) => p % 2 == 0).ToArray(),
                Enumerable.Range(0, (int)Pages / 2).Select(p => pinner.PinPage(first + ((2 * (ulong)p) * Page), DmaAccess.ReadWrite)).ToArray());
            return (before, after, left);
        }
    }

    [TestMethod]
    public void A_closed_container_pins_nothing_and_nothing_is_noted_down()
    {
        var kernel = new QuietKernel();
        var descriptor = new FileDescriptor(kernel, 3);
        var pinner = new Pinner(new Type1Iommu(kernel, descriptor));
        var page = new HostAddress(0x7f00_0000_0000);
        descriptor.Dispose();
        for (int i = 0; i < 2; i++)
        {
            Assert.ThrowsExactly<ObjectDisposedException>(() => pinner.PinPage(page, DmaAccess.ReadWrite));
            Assert.ThrowsExactly<ObjectDisposedException>(() => pinner.Register(
                new PinRange(HostRange.Of(page, Page), DmaAccess.ReadWrite), new PinOptions { Populate = false }));
        }

        Assert.AreEqual((0, 0UL), (pinner.EntriesUsed, pinner.PinnedBytes));
    }

    [TestMethod]
    public void A_single_page_is_pinned_and_released_without_allocating()
    {
        using var descriptor = new FileDescriptor(new QuietKernel(), 3);
        var pinner = new Pinner(new Type1Iommu(new QuietKernel(), descriptor));
        var first = new HostAddress(0x7f00_0000_0000);
        Round();
        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < 10; i++)
        {
            Round();
        }

        Assert.AreEqual(0, GC.GetAllocatedBytesForCurrentThread() - before);
        Assert.AreEqual(11 * 2000, pinner.MapCalls);
        Assert.AreEqual(0, pinner.EntriesUsed);

        // Pages enough for many chunks of the table; each is pinned twice, and the second time makes no call.
        void Round()
        {
            for (ulong p = 0; p < 2000; p++)
            {
                pinner.PinPage(first + (p * 2 * Page), DmaAccess.ReadWrite);
                pinner.PinPage(first + (p * 2 * Page), DmaAccess.Read);
            }

            for (ulong p = 0; p < 2000; p++)
            {
                pinner.ReleasePage(first + (p * 2 * Page));
                pinner.ReleasePage(first + (p * 2 * Page));
            }
        }
    }

    [TestMethod]
    public void Random_registrations_agree_with_a_count_for_each_page()
    {
        Random random = Seed.Start(context);
        using var rig = new PinRig();
        HostRange memory = rig.Memory(128);
        var held = new List<(RegisteredMemory Registered, HashSet<int> Pages)>();
        var pages = new List<int>();
        for (int step = 0; step < 1500; step++)
        {
            switch (random.Next(held.Count > 12 || pages.Count > 20 ? 2 : 4))
            {
                case 0 when held.Count > 0:
                    int h = random.Next(held.Count);
                    held[h].Registered.Dispose();
                    held.RemoveAt(h);
                    break;
                case 1 when pages.Count > 0:
                    int p = random.Next(pages.Count);
                    rig.Pinner.ReleasePage(memory.First + ((ulong)pages[p] * Page));
                    pages.RemoveAt(p);
                    break;
                case 2:
                    // Several ranges in any order, which may overlap, and often are pinned already.
                    var ranges = new List<PinRange>();
                    var all = new HashSet<int>();
                    for (int n = random.Next(1, 4); n > 0; n--)
                    {
                        int first = random.Next(128);
                        int count = random.Next(1, Math.Min(129 - first, random.Next(2) == 0 ? 5 : 129));
                        ranges.Add(PinRig.ReadWrite(HostRange.Of(memory.First + ((ulong)first * Page), (ulong)count * Page)));
                        all.UnionWith(Enumerable.Range(first, count));
                    }

                    PinOptions options = new() { Grain = random.Next(2) == 0 ? 0 : Page << random.Next(4) };
                    held.Add((rig.Pinner.Register(ranges, options), all));
                    break;
                default:
                    int page = random.Next(128);
                    pages.Add(page);
                    rig.Pinner.PinPage(memory.First + ((ulong)page * Page), DmaAccess.ReadWrite);
                    break;
            }

            var wanted = new HashSet<int>(pages);
            foreach ((RegisteredMemory registered, HashSet<int> its) in held)
            {
                foreach (int i in its)
                {
                    wanted.Add(i);
                    Assert.IsTrue(registered.TryTranslate(memory.First + ((ulong)i * Page), out _, out _));
                }
            }

            IReadOnlyList<DmaMapping> live = rig.Pinner.Mappings();
            Assert.HasCount(live.Count, rig.Kernel.Mappings);
            foreach (int i in wanted)
            {
                Assert.IsTrue(live.Any(m => m.Host.Contains(memory.First + ((ulong)i * Page))), $"page {i} is wanted and not pinned");
            }

            // No mapping without a user: each holds at least one page that somebody wants.
            foreach (DmaMapping mapping in live)
            {
                int from = (int)((mapping.Host.First - memory.First) / Page);
                Assert.IsTrue(Enumerable.Range(from, (int)(mapping.Host.Length / Page)).Any(wanted.Contains), "a mapping that nobody uses");
            }
        }

        held.ForEach(h => h.Registered.Dispose());
        pages.ForEach(p => rig.Pinner.ReleasePage(memory.First + ((ulong)p * Page)));
        rig.AssertNothingPinned();
    }

    [TestMethod]
    public void Each_call_failing_in_turn_leaves_nothing_behind()
    {
        // Where the memory lies decides how many calls there are, so the sweep ends with the first run that no failure reached.
        for (int n = 1; ; n++)
        {
            using var rig = new PinRig();
            HostRange kept = rig.Memory(3);
            using RegisteredMemory registered = rig.Pinner.Register([PinRig.ReadWrite(kept)]);
            rig.Kernel.FailAt(n, Errno.ENODEV);
            LinuxException? failed = null;
            try
            {
                Work(rig);
            }
            catch (LinuxException e)
            {
                failed = e;
            }

            rig.Kernel.FailNothing();
            if (failed is null)
            {
                Assert.IsGreaterThan(8, n);
                return;
            }

            Assert.AreEqual(Errno.ENODEV, failed.Errno);
            Assert.StartsWith("VFIO_", failed.Message);
            // An unmap that failed keeps its mapping, which can be released again; everything else is gone.
            Assert.AreEqual(rig.Pinner.EntriesUsed, rig.Kernel.Mappings.Count);
            foreach (RegisteredMemory left in Left)
            {
                left.Dispose();
            }

            Left.Clear();
            Assert.AreEqual(1, rig.Pinner.EntriesUsed, $"call {n}");
            Assert.AreEqual(3ul, rig.Kernel.LockedPages, $"call {n}");
        }
    }

    [TestMethod]
    [DataRow(true)]
    [DataRow(false)]
    public void Pinning_what_is_pinned_makes_no_call(bool populate)
    {
        using var rig = new PinRig();
        HostRange memory = rig.Memory(8);
        var options = new PinOptions { Populate = populate };
        using (RegisteredMemory whole = rig.Pinner.Register(PinRig.ReadWrite(memory), options))
        {
            int calls = rig.Kernel.FailableCalls;
            RegisteredMemory same = rig.Pinner.Register(PinRig.ReadWrite(memory), options);
            RegisteredMemory part = rig.Pinner.Register(
                new PinRange(HostRange.Of(memory.First + (2 * Page), 3 * Page), DmaAccess.Read), options);
            Assert.AreEqual(whole.Mappings[0], same.Mappings.Single());
            Assert.IsTrue(part.TryTranslate(memory.First + (3 * Page), out Iova iova, out ulong contiguous));
            Assert.AreEqual((whole.Mappings[0].Iova.First + (3 * Page), 5 * Page), (iova, contiguous));
            part.Dispose();
            same.Dispose();
            Assert.AreEqual(calls, rig.Kernel.FailableCalls);
            Assert.AreEqual(8ul, rig.Kernel.LockedPages);
        }

        rig.AssertNothingPinned();
    }

    [TestMethod]
    [DataRow(true)]
    [DataRow(false)]
    public void Pinning_several_ranges_that_all_are_pinned_makes_no_call(bool populate)
    {
        using var rig = new PinRig();
        HostRange memory = rig.Memory(32);
        HostRange Pages(ulong first, ulong count) => HostRange.Of(memory.First + (first * Page), count * Page);
        var options = new PinOptions { Populate = populate };
        RegisteredMemory lower = rig.Pinner.Register([PinRig.ReadWrite(Pages(0, 8)), PinRig.ReadWrite(Pages(20, 8))], options);
        RegisteredMemory upper = rig.Pinner.Register(PinRig.ReadWrite(Pages(8, 8)), options);
        int calls = rig.Kernel.FailableCalls;
        // One over two mappings, one in one of them, and one in the third; and a single one over two.
        RegisteredMemory again = rig.Pinner.Register([PinRig.ReadWrite(Pages(22, 3)), PinRig.ReadWrite(Pages(4, 8)), new PinRange(Pages(9, 1), DmaAccess.Read)], options);
        RegisteredMemory single = rig.Pinner.Register(PinRig.ReadWrite(Pages(7, 2)), options);
        Assert.AreEqual(calls, rig.Kernel.FailableCalls);
        Assert.HasCount(3, again.Mappings);
        Assert.HasCount(2, single.Mappings);
        lower.Dispose();
        upper.Dispose();
        Assert.AreEqual(calls, rig.Kernel.FailableCalls, "each mapping is still used");
        for (ulong page = 4; page < 12; page++)
        {
            Assert.IsTrue(again.TryTranslate(memory.First + (page * Page), out Iova iova, out _) && rig.Device.WriteMemory(iova, [1]));
        }

        // With a page that is not pinned it is planned as ever.
        using (RegisteredMemory more = rig.Pinner.Register([PinRig.ReadWrite(Pages(0, 4)), PinRig.ReadWrite(Pages(14, 4))], options))
        {
            Assert.HasCount(3, more.Mappings);
        }

        again.Dispose();
        single.Dispose();
        rig.AssertNothingPinned();
    }

    private List<RegisteredMemory> Left { get; } = [];

    private void Work(PinRig rig)
    {
        HostRange a = rig.Memory(8);
        HostRange b = rig.Memory(8);
        Left.Add(rig.Pinner.Register([PinRig.ReadWrite(a)], new PinOptions { Grain = 4 * Page }));
        Left.Add(rig.Pinner.Register([PinRig.ReadWrite(b), PinRig.ReadWrite(a)]));
        while (Left.Count > 0)
        {
            Left[^1].Dispose();
            Left.RemoveAt(Left.Count - 1);
        }
    }
}
