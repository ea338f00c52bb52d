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
