using Vfio.Linux;

namespace Vfio.Tests;

/// <summary>What is pinned of a run of which the kernel takes not all, by which calls, and what is told of the rest.</summary>
[TestClass]
public sealed class PinnerHalvingTests(TestContext context)
{
    private const ulong Page = PinRig.Page;

    private static readonly PinOptions BestEffort = new() { Policy = PinPolicy.BestEffort };

    [TestMethod]
    [DataRow(1, Errno.EFAULT)]
    [DataRow(2, Errno.EFAULT)]
    [DataRow(3, Errno.EFAULT)]
    [DataRow(5, Errno.EFAULT)]
    [DataRow(7, Errno.EFAULT)]
    [DataRow(64, Errno.EFAULT)]
    [DataRow(100, Errno.EFAULT)]
    [DataRow(129, Errno.EFAULT)]
    [DataRow(100, Errno.EEXIST)]
    [DataRow(100, Errno.EINVAL)]
    public void One_bad_page_costs_no_more_than_twice_the_logarithm_wherever_it_is(int pages, Errno errno)
    {
        int most = (int)Math.Floor((2 * Math.Log2(pages)) + 2);
        using var rig = new PinRig();
        HostRange memory = rig.Memory(pages);
        for (int bad = 0; bad < pages; bad++)
        {
            rig.Kernel.FailNothing();
            rig.Kernel.FailMapsTouching(memory.First + ((ulong)bad * Page), errno);
            long before = rig.Pinner.MapCalls;
            using (RegisteredMemory registered = rig.Pinner.Register([PinRig.ReadWrite(memory)], BestEffort with { Populate = bad % 2 == 0 }))
            {
                Assert.IsLessThanOrEqualTo(most, rig.Pinner.MapCalls - before, $"page {bad} of {pages}");
                PinFailure failure = registered.Failures.Single();
                Assert.AreEqual(HostRange.Of(memory.First + ((ulong)bad * Page), Page), failure.Host);
                Assert.AreEqual(errno, failure.Errno);
                Assert.IsNotNull(failure.Cure);
                Assert.AreEqual((ulong)pages - 1, rig.Kernel.LockedPages);
            }

            rig.AssertNothingPinned();
        }
    }

    [TestMethod]
    public void What_lies_beside_iovas_that_somebody_mapped_past_the_pinner_is_pinned()
    {
        using var rig = new PinRig();
        HostRange memory = rig.Memory(64);
        HostRange other = rig.Memory(4);
        IovaRange taken = IovaRange.Of(new Iova(0x40_0000), other.Length);
        rig.Container.Iommu.Map(taken, other.First, DmaAccess.ReadWrite);
        // Pages 21 to 24 are where the other mapping is.
        PinOptions options = BestEffort with { At = new Iova(taken.First.Value - (21 * Page)) };
        HostRange overlapping = HostRange.Of(memory.First + (21 * Page), 4 * Page);
        using (RegisteredMemory registered = rig.Pinner.Register([PinRig.ReadWrite(memory)], options))
        {
            PinFailure failure = registered.Failures.Single();
            Assert.AreEqual((overlapping, Errno.EEXIST), (failure.Host, failure.Errno));
            Assert.Contains("overlaps a live mapping", failure.Cause!);
            Assert.IsLessThanOrEqualTo(4 * ((2 * 6) + 2), rig.Pinner.MapCalls);
            for (int page = 0; page < 64; page++)
            {
                HostAddress address = memory.First + ((ulong)page * Page);
                Assert.AreEqual(!overlapping.Contains(address), registered.TryTranslate(address, out Iova iova, out ulong contiguous), $"page {page}");
                Assert.IsTrue(overlapping.Contains(address) || rig.Device.WriteMemory(iova, [(byte)(page + 100)]));
                Assert.IsTrue(address >= overlapping.First || contiguous <= overlapping.First - address, "nothing is contiguous over the other mapping");
            }

            unsafe
            {
                Assert.IsTrue(new ReadOnlySpan<byte>((void*)other.First.Value, (int)other.Length).IndexOfAnyExcept((byte)1) < 0, "the other's memory");
                Assert.AreEqual(163, ((byte*)memory.Last.Value)[1 - (int)Page]);
            }
        }

        LinuxException e = Assert.ThrowsExactly<LinuxException>(
            () => rig.Pinner.Register([PinRig.ReadWrite(memory)], options with { Policy = PinPolicy.AllOrNothing }));
        Assert.AreEqual(Errno.EEXIST, e.Errno);
        Assert.Contains(overlapping.First.ToString(), e.Message);
        rig.Container.Iommu.Unmap(taken);
        rig.AssertNothingPinned();
    }

    [TestMethod]
    public void Random_bad_pages_leave_exactly_the_good_ones_pinned_within_the_bound()
    {
        Random random = Seed.Start(context);
        for (int round = 0; round < 40; round++)
        {
            using var rig = new PinRig();
            int pages = random.Next(1, 200);
            HostRange memory = rig.Memory(pages);
            var bad = new HashSet<int>();
            for (int i = random.Next(0, 12); i > 0; i--)
            {
                if (bad.Add(random.Next(pages)))
                {
                    rig.Kernel.FailMapsTouching(memory.First + ((ulong)bad.Last() * Page));
                }
            }

            using (RegisteredMemory registered = rig.Pinner.Register([PinRig.ReadWrite(memory)], BestEffort))
            {
                double most = Math.Max(1, bad.Count * ((2 * Math.Log2(pages)) + 2));
                Assert.IsLessThanOrEqualTo(most, rig.Pinner.MapCalls);
                for (int p = 0; p < pages; p++)
                {
                    HostAddress page = memory.First + ((ulong)p * Page);
                    bool isIn = registered.TryTranslate(page, out Iova iova, out _);
                    Assert.AreEqual(!bad.Contains(p), isIn, $"page {p}");
                    Assert.AreEqual(bad.Contains(p), registered.Failures.Any(f => f.Host.Contains(page)));
                    Assert.IsTrue(!isIn || rig.Device.WriteMemory(iova, [1]));
                }
            }

            rig.AssertNothingPinned();
            rig.Kernel.FailNothing();
            // Every IOVA came back: the same again is one call.
            long before = rig.Pinner.MapCalls;
            rig.Pinner.Register([PinRig.ReadWrite(memory)]).Dispose();
            Assert.AreEqual(before + 1, rig.Pinner.MapCalls);
        }
    }

    [TestMethod]
    public void All_or_nothing_names_the_page_and_undoes_everything()
    {
        using var rig = new PinRig();
        HostRange memory = rig.Memory(64);
        HostRange other = rig.Memory(8);
        rig.Kernel.FailMapsTouching(memory.First + (33 * Page));
        LinuxException e = Assert.ThrowsExactly<LinuxException>(() => rig.Pinner.Register([PinRig.ReadWrite(other), PinRig.ReadWrite(memory)]));
        Assert.AreEqual(Errno.EFAULT, e.Errno);
        Assert.Contains(HostRange.Of(memory.First + (33 * Page), Page).ToString(), e.Message);
        rig.AssertNothingPinned();
    }

    [TestMethod]
    public void Holes_and_read_only_pages_are_found_by_the_kernels_own_rules()
    {
        using var rig = new PinRig();
        HostRange memory = rig.Memory(32);
        PinRig.Protect(memory.First + (3 * Page), Mman.PROT_NONE);
        PinRig.Protect(memory.First + (20 * Page), Mman.PROT_READ);
        using (RegisteredMemory registered = rig.Pinner.Register([PinRig.ReadWrite(memory)], BestEffort))
        {
            CollectionAssert.AreEqual(
                new[] { memory.First + (3 * Page), memory.First + (20 * Page) }, registered.Failures.Select(f => f.Host.First).ToArray());
        }

        using (RegisteredMemory registered = rig.Pinner.Register([new PinRange(memory, DmaAccess.Read)], BestEffort))
        {
            Assert.AreEqual(memory.First + (3 * Page), registered.Failures.Single().Host.First);
        }

        rig.AssertNothingPinned();
    }

    [TestMethod]
    public void Entries_that_run_out_are_told_before_or_stop_the_work_and_are_never_exceeded()
    {
        using var rig = new PinRig(k => k.EntryLimit = 4);
        HostRange memory = rig.Memory(16);
        PinOptions grain = new() { Grain = Page };
        LinuxException e = Assert.ThrowsExactly<LinuxException>(() => rig.Pinner.Register([PinRig.ReadWrite(memory)], grain));
        Assert.AreEqual(Errno.ENOSPC, e.Errno);
        Assert.Contains("16 entries needed, 4 entries there", e.Message);
        Assert.AreEqual(0, rig.Pinner.MapCalls);
        using (RegisteredMemory part = rig.Pinner.Register([PinRig.ReadWrite(memory)], grain with { Policy = PinPolicy.BestEffort }))
        {
            Assert.HasCount(4, part.Mappings);
            Assert.AreEqual(5, rig.Pinner.MapCalls, "one call finds that there is no entry left, and none follows");
            PinFailure failure = part.Failures.Single();
            Assert.AreEqual((Errno.ENOSPC, 12 * Page), (failure.Errno, failure.Host.Length));
        }

        // A bad page splits a run into more entries than there are.
        rig.Kernel.FailMapsTouching(memory.First + Page);
        e = Assert.ThrowsExactly<LinuxException>(() => rig.Pinner.Register([PinRig.ReadWrite(rig.Memory(4)), PinRig.ReadWrite(memory)]));
        Assert.AreEqual(Errno.EFAULT, e.Errno);
        rig.AssertNothingPinned();
    }

    [TestMethod]
    public void The_memlock_limit_is_told_before_or_found_with_few_calls()
    {
        using var rig = new PinRig(k => k.MemlockLimit = 100 * Page);
        HostRange memory = rig.Memory(1000);
        LinuxException unknown = Assert.ThrowsExactly<LinuxException>(() => rig.Pinner.Register([PinRig.ReadWrite(memory)]));
        Assert.AreEqual(Errno.ENOMEM, unknown.Errno);
        rig.AssertNothingPinned();
        long before = rig.Pinner.MapCalls;
        using (RegisteredMemory part = rig.Pinner.Register([PinRig.ReadWrite(memory)], BestEffort))
        {
            Assert.AreEqual(100ul, rig.Kernel.LockedPages, "what fits is pinned");
            Assert.AreEqual(900 * Page, part.Failures.Single().Host.Length);
            Assert.IsLessThanOrEqualTo(22, rig.Pinner.MapCalls - before);
        }

        rig.Tell("/proc/self/limits", "Max locked memory         409600               409600               bytes     \n");
        rig.Tell("/proc/self/status", "Name:\tx\nVmLck:\t       8 kB\nCapEff:\t0000000000000000\n");
        before = rig.Pinner.MapCalls;
        LinuxException e = Assert.ThrowsExactly<LinuxException>(() => rig.Pinner.Register([PinRig.ReadWrite(memory)]));
        Assert.AreEqual(before, rig.Pinner.MapCalls, "found before anything was touched");
        Assert.Contains("RLIMIT_MEMLOCK: 4000 KiB needed, 392 KiB there, 3608 KiB short", e.Message);
        Assert.Contains("LimitMEMLOCK=4104192", e.Message);
        Assert.Contains("prlimit --pid", e.Message);
        rig.AssertNothingPinned();
    }

    // One page is bad from the start, so that the run is halved; then one more call fails, with an errno that may be the page's, or is not.
    [TestMethod]
    [DataRow(PinPolicy.AllOrNothing, Errno.EFAULT)]
    [DataRow(PinPolicy.AllOrNothing, Errno.ENOMEM)]
    [DataRow(PinPolicy.AllOrNothing, Errno.ENOSPC)]
    [DataRow(PinPolicy.BestEffort, Errno.EFAULT)]
    [DataRow(PinPolicy.BestEffort, Errno.ENOMEM)]
    [DataRow(PinPolicy.BestEffort, Errno.ENOSPC)]
    [DataRow(PinPolicy.BestEffort, Errno.ENODEV)]
    public void Each_call_failing_while_a_run_is_halved_leaves_nothing_behind(PinPolicy policy, Errno errno)
    {
        for (int n = 1; ; n++)
        {
            using var rig = new PinRig();
            HostRange memory = rig.Memory(16);
            rig.Kernel.FailMapsTouching(memory.First + (5 * Page));
            int before = rig.Kernel.FailableCalls;
            rig.Kernel.FailAt(n, errno);
            RegisteredMemory? registered = null;
            try
            {
                registered = rig.Pinner.Register([PinRig.ReadWrite(memory)], new PinOptions { Policy = policy });
                Assert.AreEqual(PinPolicy.BestEffort, policy, $"call {n}");
                ulong pinned = registered.Mappings.Aggregate(0ul, (sum, m) => sum + m.Host.Length);
                Assert.AreEqual(rig.Kernel.LockedPages * Page, pinned, $"call {n}");
                Assert.AreEqual(memory.Length, registered.Failures.Aggregate(pinned, (sum, f) => sum + f.Host.Length), $"call {n}");
                registered.Dispose();
            }
            catch (LinuxException e)
            {
                Assert.StartsWith("VFIO_", e.Message);
            }

            bool reached = rig.Kernel.FailableCalls - before >= n;
            rig.Kernel.FailNothing();
            registered?.Dispose();
            // What could not be unmapped while everything was undone stays mapped, and known.
            while (rig.Pinner.Mappings() is [var left, ..])
            {
                rig.Pinner.ReleasePage(left.Host.First);
            }

            rig.AssertNothingPinned();
            if (!reached)
            {
                Assert.IsGreaterThan(10, n);
                return;
            }
        }
    }

    [TestMethod]
    public void All_or_nothing_looks_for_one_page_that_fails_and_not_for_all()
    {
        using var rig = new PinRig();
        HostRange memory = rig.Memory(1024);
        for (ulong page = 100; page < 1024; page++)
        {
            PinRig.Protect(memory.First + (page * PinRig.Page), Mman.PROT_NONE);
        }

        LinuxException e = Assert.ThrowsExactly<LinuxException>(() => rig.Pinner.Register([PinRig.ReadWrite(memory)]));
        Assert.Contains((memory.First + (100 * PinRig.Page)).ToString(), e.Message);
        Assert.IsLessThanOrEqualTo(2 * 10 + 2, rig.Pinner.MapCalls);
        rig.AssertNothingPinned();
    }
}
