using System.Diagnostics;
using System.Globalization;

namespace Vfio.Benchmarks;

/// <summary>What needs no device: renting and returning, marking and harvesting, populating.</summary>
internal static class PoolBenchmark
{
    private const int Runs = 31;
    private const ulong Covered = 1ul << 30;

    public static int Run()
    {
        RentAndReturn();
        MarkAndHarvest();
        Populate();
        return 0;
    }

    private static void RentAndReturn()
    {
        const int Operations = 100_000;
        using PinnedPool pool = PinnedPool.Create(new PinnedPoolOptions
        {
            Name = "bench",
            Size = 64ul << 20,
            Backings = [MemoryBacking.Transparent],
            BufferSize = 2048,
            TrackDirty = false,
            Checked = false,
        });
        long allocated = 0;
        double time = Measure.MedianOf(Runs, Operations, () =>
        {
            long before = GC.GetAllocatedBytesForCurrentThread();
            for (int i = 0; i < Operations; i++)
            {
                pool.TryRent(out PinnedBuffer buffer);
                pool.Return(buffer);
            }

            allocated = GC.GetAllocatedBytesForCurrentThread() - before;
        });
        Measure.Print(string.Create(CultureInfo.InvariantCulture, $"rent and return: {time:F1} ns, {allocated} bytes allocated over {Operations}"));
    }

    private static void MarkAndHarvest()
    {
        var bitmap = new DirtyBitmap(Covered);
        ulong[] into = new ulong[bitmap.Words];
        foreach ((string what, ulong length) in new[] { ("4 KiB", 4096ul), ("64 KiB", 65536ul), ("2 MiB", 2ul << 20) })
        {
            int operations = (int)(Covered / length);
            double each = Measure.MedianOf(Runs, operations, () =>
            {
                for (ulong offset = 0; offset < Covered; offset += length)
                {
                    bitmap.Mark(new PoolOffset(offset), length);
                }
            });
            Measure.Print(string.Create(CultureInfo.InvariantCulture, $"mark {what} at a time: {each:F1} ns each, {length / each:F0} GB/s of pages"));
        }

        double full = Measure.MedianOf(Runs, 1, () =>
        {
            bitmap.Mark(default, Covered);
            bitmap.Harvest(into);
        });
        double empty = Measure.MedianOf(Runs, 1, () => bitmap.Harvest(into));
        Measure.Print(string.Create(CultureInfo.InvariantCulture, $"mark at once and harvest, all dirty: {Covered / full:F0} GB/s of pages"));
        Measure.Print(string.Create(CultureInfo.InvariantCulture, $"harvest, all clean: {Covered / empty:F0} GB/s of pages"));
    }

    private static void Populate()
    {
        foreach (int threads in new[] { 1, 2 })
        {
            double[] times = new double[5];
            for (int i = 0; i < times.Length; i++)
            {
                long begin = Stopwatch.GetTimestamp();
                using PinnedPool pool = PinnedPool.Create(new PinnedPoolOptions
                {
                    Name = "bench",
                    Size = Covered,
                    Backings = [MemoryBacking.Pages4KiB],
                    PopulateThreads = threads,
                    TrackDirty = false,
                });
                times[i] = Measure.Nanoseconds(Stopwatch.GetTimestamp() - begin);
            }

            Measure.Print(string.Create(CultureInfo.InvariantCulture, $"populate 1 GiB of 4 KiB pages, {threads} thread(s): {Covered / Measure.Median(times):F2} GB/s"));
        }
    }
}
