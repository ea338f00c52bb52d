using Vfio.Linux;

namespace Vfio.Tests;

[TestClass]
public sealed class PinnedPoolDeviceTests
{
    private const ulong MiB = 1 << 20;

    private static PinnedPoolOptions Options(ulong size = 4 * MiB, ulong grain = 0) => new()
    {
        Name = "test",
        Size = size,
        Backings = [MemoryBacking.Pages4KiB],
        BufferSize = 4096,
        Grain = grain,
    };

    [TestMethod]
    public void A_pool_is_one_map_and_a_device_writes_a_buffer_by_iova()
    {
        using var rig = new PinRig();
        using (PinnedPool pool = PinnedPool.Create(Options(128 * MiB), rig.Pinner, rig.Host.Sysfs))
        {
            Assert.AreEqual((1L, 1, 128 * MiB), (pool.MapCalls, pool.EntriesUsed, pool.PinnedBytes));
            PinnedBuffer buffer = pool.Rent();
            Assert.IsTrue(rig.Device.WriteMemory(buffer.Iova + 100, [1, 2, 3]));
            Assert.AreEqual(2, buffer.Span[101]);
            PinnedBuffer piece = pool.Allocate(5000);
            Assert.IsTrue(rig.Device.WriteMemory(piece.Iova + 4999, [9]));
            Assert.AreEqual(9, piece.Span[4999]);
            pool.Free(piece);
            pool.Return(buffer);
        }

        rig.AssertNothingPinned();
    }

    [TestMethod]
    public void Without_a_device_a_buffers_iova_is_one_that_no_iommu_has()
    {
        using PinnedPool pool = PinnedPool.Create(Options());
        PinnedBuffer buffer = pool.Rent();
        Assert.IsGreaterThanOrEqualTo(1ul << 63, buffer.Iova.Value);
        Assert.AreEqual(0ul, pool.PinnedBytes);
        pool.Return(buffer);
    }

    // The plan is made before there is memory, which must then lie so that the maps are cut as planned.
    [TestMethod]
    [DataRow(4ul * MiB, MiB)]
    [DataRow(6ul * MiB, 4 * MiB)]
    [DataRow(3ul * MiB, 64 * MiB)]
    public void It_has_as_many_maps_as_were_planned_and_shrinks_by_the_grain(ulong size, ulong grain)
    {
        using var rig = new PinRig();
        PinnedPoolOptions options = Options(size, grain);
        PoolPlan plan = PoolPlan.For(options, rig.Pinner, rig.Host.Sysfs);
        for (int attempt = 0; attempt < 8; attempt++)
        {
            // Wherever its memory comes to lie.
            using MappedMemory shift = MappedMemory.Anonymous((ulong)(attempt + 1) * 4096);
            using PinnedPool pool = PinnedPool.Create(options, rig.Pinner, rig.Host.Sysfs);
            Assert.AreEqual(plan.Pin!.Maps.Count, pool.EntriesUsed);
            if (size > grain)
            {
                ulong last = size % grain == 0 ? grain : size % grain;
                LinuxException through = Assert.ThrowsExactly<LinuxException>(() => pool.Shrink(4096));
                Assert.Contains($"shrink by {ByteSize.Text(last)}", through.Message);
                pool.Shrink(last);
                Assert.AreEqual(size - last, pool.Length);
            }
            else
            {
                // Nothing that would be refused is advised.
                Assert.DoesNotContain("shrink by 3 MiB", Assert.ThrowsExactly<LinuxException>(() => pool.Shrink(4096)).Message);
            }
        }

        rig.AssertNothingPinned();
    }

    [TestMethod]
    public void Memory_of_a_pool_that_others_have_pinned_too_is_not_taken_from_under_them()
    {
        using var rig = new PinRig();
        PinnedPool pool = PinnedPool.Create(Options(grain: MiB), rig.Pinner, rig.Host.Sysfs);
        HostAddress page = pool.Segments[0].Address + (3 * MiB) + 4096;
        rig.Pinner.PinPage(page, DmaAccess.Read);
        foreach (Action end in (Action[])[pool.Destroy, () => pool.Shrink(MiB)])
        {
            LinuxException pinned = Assert.ThrowsExactly<LinuxException>(end);
            Assert.AreEqual(Errno.EBUSY, pinned.Errno);
            Assert.Contains("Register or PinPage", pinned.Message);
            Assert.AreEqual(4 * MiB, pool.Length);
        }

        PinnedBuffer rented = pool.Rent();
        Assert.IsTrue(rig.Device.WriteMemory(rented.Iova, [1]));
        pool.Return(rented);
        rig.Pinner.ReleasePage(page);
        pool.Shrink(MiB);
        pool.Destroy();
        rig.AssertNothingPinned();
    }

    [TestMethod]
    public void It_grows_by_segments_and_shrinks_by_whole_maps_that_are_free()
    {
        using var rig = new PinRig();
        using PinnedPool pool = PinnedPool.Create(Options(4 * MiB, grain: MiB), rig.Pinner, rig.Host.Sysfs);
        Assert.AreEqual(4, pool.EntriesUsed);
        pool.Grow(2 * MiB);
        Assert.HasCount(2, pool.Segments);
        var rented = new List<PinnedBuffer>();
        while (pool.TryRent(out PinnedBuffer buffer))
        {
            rented.Add(buffer);
        }

        Assert.HasCount(1536, rented);
        LinuxException busy = Assert.ThrowsExactly<LinuxException>(() => pool.Shrink(2 * MiB));
        Assert.AreEqual(Errno.EBUSY, busy.Errno);
        Assert.AreEqual(6 * MiB, pool.Length);

        // Only what lies behind the cut matters.
        PoolSegment second = pool.Segments[1];
        foreach (PinnedBuffer buffer in rented.Where(b => b.Address >= second.Address && b.Address < second.Address + second.Length).ToArray())
        {
            pool.Return(buffer);
            rented.Remove(buffer);
        }

        pool.Shrink(2 * MiB);
        Assert.HasCount(1, pool.Segments);
        Assert.AreEqual(4 * MiB, rig.Kernel.LockedPages * 4096);
        rented.ForEach(b => pool.Return(b));

        // Part of the last segment, at a cut between two maps.
        HostAddress cut = pool.Segments[0].Mappings[^1].Host.First;
        ulong tail = pool.Segments[0].Address + pool.Segments[0].Length - cut;
        pool.Shrink(tail);
        Assert.AreEqual(4 * MiB - tail, pool.Length);
        Assert.AreEqual(pool.Length, rig.Kernel.LockedPages * 4096);
        LinuxException through = Assert.ThrowsExactly<LinuxException>(() => pool.Shrink(4096));
        Assert.Contains("--grain", through.Message);
        Assert.AreEqual(Errno.EINVAL, Assert.ThrowsExactly<LinuxException>(() => pool.Shrink(pool.Length)).Errno);

        ulong count = 0;
        var all = new List<PinnedBuffer>();
        while (pool.TryRent(out PinnedBuffer buffer))
        {
            buffer.Span.Fill(1);
            all.Add(buffer);
            count++;
        }

        Assert.AreEqual(pool.Length / 4096, count);
        all.ForEach(b => pool.Return(b));
        pool.Grow(MiB);
        Assert.AreEqual(pool.Length, rig.Kernel.LockedPages * 4096);
    }

    [TestMethod]
    [DataRow(0ul, "mmap: EINVAL (22): pool test of 0 bytes: size: 4 KiB needed, 0 bytes there", "a pool of no bytes")]
    [DataRow(5000ul, "size: 8 KiB needed, 5000 bytes there", "multiples of 4 KiB")]
    [DataRow(1ul << 50, "memory: 1048576 GiB needed", "the machine has less memory")]
    public void A_size_that_cannot_be_is_refused_in_one_message(ulong size, string what, string why)
    {
        using var rig = new PinRig();
        rig.Tell("/proc/meminfo", "MemTotal:       16384000 kB\nMemFree: 1 kB\nMemAvailable:   8192000 kB\n");
        LinuxException e = Assert.ThrowsExactly<LinuxException>(() => PinnedPool.Create(Options(size), rig.Pinner, rig.Host.Sysfs));
        Assert.Contains(what, e.Message);
        Assert.Contains(why, e.Message);
        Assert.Contains("Cure: ", e.Message);
        rig.AssertNothingPinned();
    }

    [TestMethod]
    public void Huge_pages_that_are_not_free_are_told_with_how_many_to_reserve()
    {
        using var rig = new PinRig();
        const string Directory = "/sys/kernel/mm/hugepages/hugepages-2048kB";
        rig.Tell($"{Directory}/nr_hugepages", "16\n");
        rig.Tell($"{Directory}/free_hugepages", "12\n");
        rig.Tell($"{Directory}/resv_hugepages", "2\n");
        PinnedPoolOptions options = Options(128 * MiB) with { Backings = [MemoryBacking.Huge2MiB] };
        LinuxException e = Assert.ThrowsExactly<LinuxException>(() => PinnedPool.Create(options, rig.Pinner, rig.Host.Sysfs));
        Assert.AreEqual(Errno.ENOMEM, e.Errno);
        Assert.Contains("huge pages: 64 pages of 2MiB needed, 10 pages of 2MiB there, 54 pages of 2MiB short", e.Message);
        Assert.Contains("echo 70 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", e.Message);

        LinuxException gigantic = Assert.ThrowsExactly<LinuxException>(() => PinnedPool.Create(
            Options(1024 * MiB) with { Backings = [MemoryBacking.Huge1GiB, MemoryBacking.Huge2MiB] }, rig.Pinner, rig.Host.Sysfs));
        Assert.Contains("no pages of this size", gigantic.Message);

        // With leave to fall back, the next size that can be had is taken.
        PoolPlan plan = PoolPlan.For(options with { Backings = [MemoryBacking.Huge2MiB, MemoryBacking.Pages4KiB] }, rig.Pinner, rig.Host.Sysfs);
        Assert.IsTrue(plan.CanWork);
        Assert.AreEqual(MemoryBacking.Pages4KiB, plan.Backing);
        using PinnedPool pool = PinnedPool.Create(
            options with { Size = 2 * MiB, Backings = [MemoryBacking.Huge1GiB, MemoryBacking.Pages4KiB] }, rig.Pinner, rig.Host.Sysfs);
        Assert.AreEqual(MemoryBacking.Pages4KiB, pool.Segments[0].Backing);
    }

    [TestMethod]
    public void Over_the_memlock_limit_nothing_is_touched()
    {
        using var rig = new PinRig();
        rig.Tell("/proc/self/limits", "Max locked memory         8388608              8388608              bytes     \n");
        rig.Tell("/proc/self/status", "VmLck:\t       0 kB\nCapEff:\t0000000000000000\n");
        LinuxException e = Assert.ThrowsExactly<LinuxException>(() => PinnedPool.Create(Options(16 * MiB), rig.Pinner, rig.Host.Sysfs));
        Assert.Contains("RLIMIT_MEMLOCK: 16 MiB needed, 8 MiB there, 8 MiB short", e.Message);
        Assert.Contains("LimitMEMLOCK=16777216", e.Message);
        Assert.AreEqual(0, rig.Pinner.MapCalls);
        rig.Tell("/proc/self/status", "VmLck:\t       0 kB\nCapEff:\t0000000000004000\n");
        PinnedPool.Create(Options(16 * MiB), rig.Pinner, rig.Host.Sysfs).Dispose();
        rig.AssertNothingPinned();
    }

    [TestMethod]
    public void Each_call_failing_in_turn_leaves_nothing_behind()
    {
        // Where the memory lies decides how many calls there are, so the sweep ends with the first run that no failure reached.
        for (int n = 1; ; n++)
        {
            using var rig = new PinRig();
            rig.Kernel.FailAt(n, Errno.ENODEV);
            PinnedPool? pool = null;
            LinuxException? failed = null;
            try
            {
                Live(rig, ref pool);
            }
            catch (LinuxException e)
            {
                failed = e;
            }

            if (failed is null)
            {
                Assert.IsGreaterThan(15, n);
                return;
            }

            int mapped = rig.Kernel.Mappings.Count;
            Assert.AreEqual(Errno.ENODEV, failed.Errno);
            Assert.StartsWith("VFIO_", failed.Message);
            rig.Kernel.FailNothing();
            Assert.AreEqual(rig.Pinner.EntriesUsed, mapped, $"call {n}");
            if (pool is null)
            {
                rig.AssertNothingPinned();
            }
            else
            {
                // What there is still works, and can be destroyed.
                Assert.AreEqual(pool.PinnedBytes, rig.Kernel.LockedPages * 4096, $"call {n}");
                if (pool.TryRent(out PinnedBuffer buffer))
                {
                    Assert.IsTrue(rig.Device.WriteMemory(buffer.Iova, [1]), $"call {n}");
                    pool.Return(buffer);
                }

                pool.Destroy();
                rig.AssertNothingPinned();
            }
        }
    }

    [TestMethod]
    public void The_kernels_dirty_answer_names_every_page_and_failing_to_get_it_loses_no_mark()
    {
        using var rig = new PinRig();
        using PinnedPool pool = PinnedPool.Create(Options(grain: MiB), rig.Pinner, rig.Host.Sysfs);
        DirtyTracker dirty = pool.Dirty!;
        dirty.StartKernel();
        PinnedBuffer buffer = pool.Rent();
        dirty.BeginDeviceWrite(buffer);
        rig.Device.WriteMemory(buffer.Iova, [1]);
        dirty.EndDeviceWrite(buffer, 1);
        for (int n = 1; n <= pool.EntriesUsed; n++)
        {
            rig.Kernel.FailAt(n, Errno.ENOMEM, "VFIO_IOMMU_DIRTY_PAGES");
            Assert.ThrowsExactly<LinuxException>(() => dirty.Harvest(DirtySources.Kernel), $"call {n}");
            // What the kernel had told before is in the record now.
            Assert.IsGreaterThanOrEqualTo(1ul, dirty.Peek().DirtyPages);
            Assert.IsTrue((dirty.Peek().Bits[0] & 1) != 0, $"call {n}");
        }

        DirtyAnswer all = dirty.Harvest(DirtySources.Kernel);
        Assert.AreEqual((DirtyPrecision.Superset, 1024ul, DirtySources.Kernel | DirtySources.OwnRecord), (all.Precision, all.DirtyPages, all.Sources));
        Assert.AreEqual(0ul, dirty.Harvest().DirtyPages);
        dirty.StopKernel();
        Assert.ThrowsExactly<LinuxException>(() => dirty.Harvest(DirtySources.Kernel));
        pool.Return(buffer);
    }

    private static void Live(PinRig rig, ref PinnedPool? pool)
    {
        pool = PinnedPool.Create(Options(2 * MiB, grain: MiB), rig.Pinner, rig.Host.Sysfs);
        pool.Grow(2 * MiB);
        pool.Dirty!.StartKernel();
        pool.Dirty.Harvest(DirtySources.Kernel);
        pool.Dirty.StopKernel();
        pool.Shrink(2 * MiB);
        pool.Destroy();
    }
}
