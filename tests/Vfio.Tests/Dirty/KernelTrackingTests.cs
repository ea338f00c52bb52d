using Vfio.Linux;
using Vfio.Testing;

namespace Vfio.Tests;

/// <summary>The kernel's dirty tracking is one for a container; pools there do not take it from each other.</summary>
[TestClass]
public sealed class KernelTrackingTests
{
    private const ulong MiB = 1 << 20;
    private const string DirtyPages = "VFIO_IOMMU_DIRTY_PAGES";

    [TestMethod]
    public void It_runs_from_the_first_pool_that_wants_it_to_the_last()
    {
        using var rig = new PinRig();
        using PinnedPool first = Pool(rig, "first");
        using PinnedPool second = Pool(rig, "second");
        first.Dirty!.StartKernel();
        first.Dirty.StartKernel();
        second.Dirty!.StartKernel();
        Assert.AreEqual(1, rig.Kernel.Count(DirtyPages), "one start");
        first.Dirty.StopKernel();
        Assert.AreEqual(1, rig.Kernel.Count(DirtyPages), "no stop: the neighbour wants it");
        Assert.AreEqual((false, true), (first.Dirty.KernelIsTracking, second.Dirty.KernelIsTracking));
        Assert.AreEqual(512ul, second.Dirty.Harvest(DirtySources.Kernel).DirtyPages);
        first.Dirty.StopKernel();
        Assert.AreEqual(512ul, second.Dirty.Harvest(DirtySources.Kernel).DirtyPages);
        int before = rig.Kernel.Count(DirtyPages);
        second.Dirty.StopKernel();
        Assert.AreEqual(before + 1, rig.Kernel.Count(DirtyPages), "one stop");
        second.Dirty.StartKernel();
        Assert.AreEqual(512ul, second.Dirty.Harvest(DirtySources.Kernel).DirtyPages);
    }

    [TestMethod]
    public void A_pool_that_did_not_start_it_is_not_told_a_neighbours_answer()
    {
        using var rig = new PinRig();
        using PinnedPool first = Pool(rig, "first");
        using PinnedPool second = Pool(rig, "second");
        first.Dirty!.StartKernel();
        LinuxException e = Assert.ThrowsExactly<LinuxException>(() => second.Dirty!.Harvest(DirtySources.Kernel));
        Assert.AreEqual(Errno.EINVAL, e.Errno);
        Assert.Contains("start tracking first", e.Message);
    }

    [TestMethod]
    public void A_harvest_asks_for_its_own_pools_mappings_only()
    {
        using var rig = new PinRig();
        using PinnedPool first = Pool(rig, "first", grain: MiB / 2);
        using PinnedPool second = Pool(rig, "second", grain: MiB / 2);
        first.Grow(MiB);
        first.Dirty!.StartKernel();
        second.Dirty!.StartKernel();
        int before = rig.Kernel.Calls.Count;
        Assert.AreEqual(768ul, first.Dirty.Harvest(DirtySources.Kernel).DirtyPages);
        SimCall[] asked = [.. rig.Kernel.Calls.Skip(before)];
        Assert.HasCount(first.EntriesUsed, asked);
        IEnumerable<DmaMapping> own = first.Segments.SelectMany(s => s.Mappings);
        foreach ((SimCall call, DmaMapping mapping) in asked.Zip(own))
        {
            Assert.AreEqual(DirtyPages, call.Name);
            Assert.Contains($"0x{mapping.Iova.First.Value:x}", call.Arguments, $"{mapping.Iova}");
        }

        Assert.AreEqual(512ul, second.Dirty.Harvest(DirtySources.Kernel).DirtyPages);
    }

    [TestMethod]
    public void A_pool_that_ends_gives_its_tracking_up()
    {
        using var rig = new PinRig();
        using PinnedPool kept = Pool(rig, "kept");
        using (PinnedPool pool = Pool(rig, "ended"))
        {
            pool.Dirty!.StartKernel();
        }

        Assert.AreEqual(2, rig.Kernel.Count(DirtyPages), "start and stop");
        kept.Dirty!.StartKernel();
        kept.Dirty.StopKernel();
        Assert.AreEqual(4, rig.Kernel.Count(DirtyPages));
    }

    [TestMethod]
    [DataRow(1)]
    [DataRow(2)]
    public void A_start_or_a_stop_that_fails_counts_as_not_made(int n)
    {
        using var rig = new PinRig();
        using PinnedPool pool = Pool(rig, "pool");
        rig.Kernel.FailAt(n, Errno.ENOMEM, DirtyPages);
        if (n == 1)
        {
            Assert.ThrowsExactly<LinuxException>(pool.Dirty!.StartKernel);
            Assert.IsFalse(pool.Dirty.KernelIsTracking);
        }

        pool.Dirty!.StartKernel();
        if (n == 2)
        {
            Assert.ThrowsExactly<LinuxException>(pool.Dirty.StopKernel);
            Assert.IsTrue(pool.Dirty.KernelIsTracking);
        }

        Assert.AreEqual(512ul, pool.Dirty.Harvest(DirtySources.Kernel).DirtyPages);
        pool.Dirty.StopKernel();
        Assert.IsFalse(pool.Dirty.KernelIsTracking);
        Assert.ThrowsExactly<LinuxException>(() => pool.Dirty.Harvest(DirtySources.Kernel));
    }

    [TestMethod]
    public void What_the_kernel_knows_of_registered_memory_is_told_as_it_is_unmapped()
    {
        using var rig = new PinRig();
        // Maps end at multiples of the grain: of the second range none does, of the first one does.
        ulong grain = 64 * PinRig.Page;
        HostAddress start = rig.Memory(63 + 80).First;
        HostRange memory = HostRange.Of(start + ((grain - (start.Value % grain)) % grain), 80 * PinRig.Page);
        HostRange first = HostRange.Of(memory.First, 70 * PinRig.Page);
        HostRange second = HostRange.Of(memory.First + (75 * PinRig.Page), 3 * PinRig.Page);
        var options = new PinOptions { Grain = grain };
        RegisteredMemory registered = rig.Pinner.Register([PinRig.ReadWrite(first), PinRig.ReadWrite(second)], options);
        RegisteredMemory shared = rig.Pinner.Register(PinRig.ReadWrite(second));
        Iova page = rig.Pinner.PinPage(memory.First + (79 * PinRig.Page), DmaAccess.Write);
        rig.Container.Iommu.StartDirtyTracking();
        DmaMapping[] mappings = [.. registered.Mappings];
        IReadOnlyList<UnmappedMemory> unmapped = registered.Release();
        CollectionAssert.AreEquivalent(mappings.Where(m => m.Host.First < second.First).ToArray(), unmapped.Select(u => u.Mapping).ToArray());
        Assert.AreEqual(70ul, unmapped.Aggregate(0ul, (sum, u) => sum + u.Dirty.DirtyPages));
        foreach ((DmaMapping mapping, DirtyAnswer dirty) in unmapped)
        {
            DirtyRange range = dirty.Ranges().Single();
            Assert.AreEqual((0ul, mapping.Host.Length), (range.First.Value, range.Length));
            Assert.AreEqual((DirtyPrecision.Superset, DirtySources.Kernel), (dirty.Precision, dirty.Sources));
        }

        Assert.IsEmpty(registered.Release());
        Assert.AreEqual(3ul, shared.Release().Single().Dirty.DirtyPages, "it was pinned still, and is told by the last one");
        Assert.AreEqual(page, rig.Pinner.Mappings().Single().Iova.First);
        Assert.AreEqual(1ul, rig.Pinner.ReleasePage(memory.First + (79 * PinRig.Page))!.Dirty.DirtyPages);

        // Without tracking there is nothing to tell, and the kernel would refuse to be asked.
        rig.Container.Iommu.StopDirtyTracking();
        Assert.IsEmpty(rig.Pinner.Register(PinRig.ReadWrite(second)).Release());
        rig.AssertNothingPinned();
    }

    [TestMethod]
    public void What_was_unmapped_before_a_release_failed_is_told_by_the_next_one()
    {
        using var rig = new PinRig();
        HostRange memory = rig.Memory(64);
        RegisteredMemory registered = rig.Pinner.Register(PinRig.ReadWrite(memory), new PinOptions { Grain = 16 * PinRig.Page });
        int maps = registered.Mappings.Count;
        rig.Container.Iommu.StartDirtyTracking();
        rig.Kernel.FailAt(3, Errno.ENOMEM, "VFIO_IOMMU_UNMAP_DMA");
        Assert.ThrowsExactly<LinuxException>(registered.Release);
        Assert.HasCount(maps - 2, registered.Mappings);
        IReadOnlyList<UnmappedMemory> unmapped = registered.Release();
        Assert.HasCount(maps, unmapped);
        Assert.AreEqual(64ul, unmapped.Aggregate(0ul, (sum, u) => sum + u.Dirty.DirtyPages));
        rig.AssertNothingPinned();
    }

    [TestMethod]
    public void What_the_kernel_knows_of_a_pools_end_is_in_its_record_where_shrinking_failed_half_way()
    {
        using var rig = new PinRig();
        using PinnedPool pool = Pool(rig, "test", grain: MiB / 2);
        using PinnedPool neighbour = Pool(rig, "neighbour", grain: MiB / 2);
        pool.Dirty!.StartKernel();
        Assert.AreEqual(512ul, pool.Dirty.Harvest(DirtySources.Kernel).DirtyPages);
        Assert.AreEqual(0ul, pool.Dirty.Peek().DirtyPages);
        FailSecondUnmap(pool);
        // The first of the two maps is gone, and the pool is as long as it was.
        Assert.AreEqual(2 * MiB, pool.Length);
        DirtyAnswer own = pool.Dirty.Peek();
        Assert.AreEqual((DirtyPrecision.Superset, 128ul), (own.Precision, own.DirtyPages));
        Assert.AreEqual(MiB + (MiB / 2), own.Ranges().Single().First.Value);
        Assert.AreEqual(512ul, pool.Dirty.Harvest(DirtySources.Kernel).DirtyPages, "what is mapped and what is not");

        FailSecondUnmap(neighbour);
        Assert.AreEqual((DirtyPrecision.Exact, 0ul), (neighbour.Dirty!.Peek().Precision, neighbour.Dirty.Peek().DirtyPages), "it had nobody track it");
        pool.Shrink(MiB);
        Assert.AreEqual(0ul, pool.Dirty.Peek().DirtyPages);

        void FailSecondUnmap(PinnedPool shrinking)
        {
            rig.Kernel.FailAt(2, Errno.EIO, "VFIO_IOMMU_UNMAP_DMA");
            Assert.ThrowsExactly<LinuxException>(() => shrinking.Shrink(MiB));
            rig.Kernel.FailNothing();
        }
    }

    [TestMethod]
    public void A_stop_that_fails_where_nothing_was_started_starts_nothing()
    {
        using var rig = new PinRig();
        RegisteredMemory registered = rig.Pinner.Register(PinRig.ReadWrite(rig.Memory(4)));
        rig.Kernel.FailAt(1, Errno.ENOTTY, DirtyPages);
        Assert.ThrowsExactly<LinuxException>(rig.Container.Iommu.StopDirtyTracking);
        Assert.IsFalse(rig.Container.Iommu.IsTrackingDirty);
        Assert.IsEmpty(registered.Release());
        rig.AssertNothingPinned();
    }

    // As when another who has the container has stopped it.
    [TestMethod]
    public void Where_the_kernel_will_not_tell_memory_is_unmapped_and_all_of_it_counts_as_written()
    {
        using var rig = new PinRig();
        RegisteredMemory registered = rig.Pinner.Register(PinRig.ReadWrite(rig.Memory(4)));
        rig.Container.Iommu.StartDirtyTracking();
        rig.Kernel.FailAt(1, Errno.EINVAL, "VFIO_IOMMU_UNMAP_DMA");
        DirtyAnswer answer = registered.Release().Single().Dirty;
        Assert.AreEqual((DirtyPrecision.Superset, 4ul), (answer.Precision, answer.DirtyPages));
        rig.AssertNothingPinned();
    }

    [TestMethod]
    public void A_pool_that_was_shrunk_is_as_exact_as_before()
    {
        using var rig = new PinRig();
        using PinnedPool pool = Pool(rig, "test", grain: MiB);
        pool.Dirty!.StartKernel();
        pool.Shrink(MiB);
        DirtyAnswer own = pool.Dirty.Peek();
        Assert.AreEqual((DirtyPrecision.Exact, 0ul), (own.Precision, own.DirtyPages));
    }

    [TestMethod]
    public void Each_call_failing_in_turn_while_the_kernel_tracks_leaves_nothing_behind_and_forgets_nothing()
    {
        bool reached = true;
        for (int n = 1; reached; n++)
        {
            using var rig = new PinRig();
            HostRange memory = rig.Memory(32);
            using PinnedPool pool = Pool(rig, "test", grain: MiB / 2);
            pool.Dirty!.StartKernel();
            pool.Dirty.Mark(default, PinRig.Page);
            rig.Kernel.FailAt(n, Errno.ENOMEM);
            reached = false;
            ulong told = 0;
            RegisteredMemory? registered = null;
            Try(() => registered = rig.Pinner.Register(PinRig.ReadWrite(memory), new PinOptions { Grain = 8 * PinRig.Page }));
            registered ??= rig.Pinner.Register(PinRig.ReadWrite(memory), new PinOptions { Grain = 8 * PinRig.Page });
            Try(() => told += Pages(registered.Release()));
            told += Pages(registered.Release());
            Assert.AreEqual(32ul, told, $"call {n}");
            Try(() => pool.Shrink(MiB / 2));
            DirtyAnswer? answer = null;
            Try(() => answer = pool.Dirty.Harvest(DirtySources.Kernel));
            answer ??= pool.Dirty.Harvest(DirtySources.Kernel);
            Assert.AreEqual(pool.Length / PinRig.Page, answer.DirtyPages, $"call {n}");
            rig.Kernel.FailNothing();
            pool.Destroy();
            rig.AssertNothingPinned();

            void Try(Action action)
            {
                try
                {
                    action();
                }
                catch (LinuxException)
                {
                    reached = true;
                }
            }
        }

        static ulong Pages(IReadOnlyList<UnmappedMemory> unmapped) => unmapped.Aggregate(0ul, (sum, u) => sum + u.Dirty.DirtyPages);
    }

    private static PinnedPool Pool(PinRig rig, string name, ulong grain = 0) => PinnedPool.Create(
        new PinnedPoolOptions { Name = name, Size = 2 * MiB, Backings = [MemoryBacking.Pages4KiB], Grain = grain }, rig.Pinner, rig.Host.Sysfs);

    [TestMethod]
    public void A_pool_whose_tracking_cannot_be_stopped_goes_on_lending()
    {
        using var rig = new PinRig();
        using PinnedPool pool = Pool(rig, "test");
        pool.Dirty!.StartKernel();
        rig.Kernel.FailAt(1, Errno.ENOMEM, DirtyPages);
        Assert.ThrowsExactly<LinuxException>(pool.Destroy);
        PinnedBuffer rented = pool.Rent();
        // One in use keeps its tracking, too.
        Assert.AreEqual(Errno.EBUSY, Assert.ThrowsExactly<LinuxException>(pool.Destroy).Errno);
        Assert.IsTrue(pool.Dirty.KernelIsTracking);
        Assert.AreEqual(DirtyPrecision.Superset, pool.Dirty.Harvest(DirtySources.Kernel).Precision);
        pool.Return(rented);
    }
}
