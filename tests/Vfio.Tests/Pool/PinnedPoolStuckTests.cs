using Vfio.Linux;
using Vfio.Testing;

namespace Vfio.Tests;

/// <summary>A pool that fails and cannot be undone either: memory that the kernel did not unmap stays where it is.</summary>
[TestClass]
public sealed class PinnedPoolStuckTests
{
    private const ulong MiB = 1 << 20;

    private static readonly PinnedPoolOptions Options = new()
    {
        Name = "stuck",
        Size = 4 * MiB,
        Backings = [MemoryBacking.Pages4KiB],
        Grain = MiB,
    };

    [TestMethod]
    public void Memory_whose_unmap_failed_stays_mapped_is_counted_and_is_never_taken_for_other_memory()
    {
        int maps;
        using (var whole = new PinRig())
        using (PinnedPool pool = PinnedPool.Create(Options, whole.Pinner, whole.Host.Sysfs))
        {
            maps = pool.EntriesUsed;
        }

        Assert.IsGreaterThan(3, maps);
        for (int map = 2; map <= maps; map++)
        {
            // Undoing goes on after an unmap that failed, so each of those that it makes is failed once.
            for (int unmap = 1; unmap < map; unmap++)
            {
                using var rig = new PinRig();
                rig.Kernel.FailAt(map, Errno.ENODEV, "VFIO_IOMMU_MAP_DMA");
                rig.Kernel.FailAt(unmap, Errno.EBUSY, "VFIO_IOMMU_UNMAP_DMA");
                LinuxException e = Assert.ThrowsExactly<LinuxException>(() => PinnedPool.Create(Options, rig.Pinner, rig.Host.Sysfs));
                Assert.AreEqual(Errno.ENODEV, e.Errno);
                Assert.Contains("undoing failed", e.Message);
                Assert.Contains("VFIO_IOMMU_UNMAP_DMA: EBUSY (16)", e.Message);
                Assert.Contains("4 MiB of pool stuck could not be unpinned and stay mapped", e.Message);
                Assert.Contains("end this process", e.Message);

                SimMapping left = rig.Kernel.Mappings.Single();
                DmaMapping known = rig.Pinner.Mappings().Single();
                Assert.AreEqual((left.Range, left.Address), (known.Iova, known.Host.First), $"map {map}, unmap {unmap}");
                Assert.AreEqual((1, known.Host.Length, 4 * MiB), (rig.Pinner.EntriesUsed, rig.Pinner.PinnedBytes, rig.Pinner.KeptBytes));
                Assert.AreEqual(0, LibC.madvise((nint)known.Host.First.Value, (nuint)known.Host.Length, Mman.MADV_POPULATE_READ), "it is mapped here");
                Assert.IsTrue(rig.Device.WriteMemory(known.Iova.First, [1]));

                using (PinnedPool next = PinnedPool.Create(Options, rig.Pinner, rig.Host.Sysfs))
                {
                    Assert.IsFalse(next.Segments[0].Mappings.Any(m => m.Host.Contains(known.Host.First) || m.Iova.Contains(known.Iova.First)));
                }

                Assert.AreEqual((1, 4 * MiB), (rig.Pinner.EntriesUsed, rig.Pinner.KeptBytes));
            }
        }
    }

    [TestMethod]
    public void A_failure_that_could_be_undone_keeps_nothing()
    {
        using var rig = new PinRig();
        rig.Kernel.FailAt(3, Errno.ENODEV, "VFIO_IOMMU_MAP_DMA");
        LinuxException e = Assert.ThrowsExactly<LinuxException>(() => PinnedPool.Create(Options, rig.Pinner, rig.Host.Sysfs));
        Assert.DoesNotContain("stay mapped", e.Message);
        Assert.AreEqual(0ul, rig.Pinner.KeptBytes);
        rig.AssertNothingPinned();
    }

    [TestMethod]
    public void Growing_that_cannot_be_undone_leaves_the_pool_as_it_was()
    {
        using var rig = new PinRig();
        using (PinnedPool pool = PinnedPool.Create(Options, rig.Pinner, rig.Host.Sysfs))
        {
            rig.Kernel.FailAt(3, Errno.ENODEV, "VFIO_IOMMU_MAP_DMA");
            rig.Kernel.FailAt(1, Errno.EBUSY, "VFIO_IOMMU_UNMAP_DMA");
            int entries = pool.EntriesUsed;
            Assert.ThrowsExactly<LinuxException>(() => pool.Grow(4 * MiB));
            Assert.AreEqual((4 * MiB, 4 * MiB, entries), (pool.Length, rig.Pinner.KeptBytes, pool.EntriesUsed));
            Assert.AreEqual(entries + 1, rig.Pinner.EntriesUsed);
            pool.Grow(4 * MiB);
            pool.Shrink(4 * MiB);
        }

        Assert.AreEqual((1, 1), (rig.Pinner.EntriesUsed, rig.Kernel.Mappings.Count));
    }
}
