using Vfio.Virtio;

namespace Vfio.GuestTests;

/// <summary>An incremental checkpoint of a pool that a real device writes.</summary>
[TestClass]
public sealed unsafe class BlockExportTests
{
    private const ulong Page = 4096;
    private const int PieceBytes = 64 << 10;

    [TestMethod]
    public void Exports_between_reads_from_the_disk_restore_to_identical_bytes()
    {
        GuestPci.BindToVfio(BlockDisk.Address);
        using VfioContainer container = VfioContainer.Open();
        VfioDevice device = container.OpenDevice(BlockDisk.Address);
        using PinnedPool pool = PinnedPool.Create(Pool("disk"), new Pinner(container.Iommu));
        using PinnedPool copy = PinnedPool.Create(Pool("copy"));
        DirtyTracker dirty = pool.Dirty!;
        PinnedBuffer arena = pool.Allocate(new VirtioBlockOptions().ArenaBytes);
        PinnedBuffer data = pool.Allocate(8 * PieceBytes);
        var chain = new List<MemoryStream>();
        // The device's writes are known by its completions alone: nothing here marks the data.
        var options = new VirtioBlockOptions
        {
            DeviceWrote = range =>
            {
                PinnedBuffer into = range.First >= data.Iova && range.Last < data.Iova + (ulong)data.Length ? data : arena;
                dirty.Written(into.Slice((int)(range.First - into.Iova), (int)range.Length));
            },
        };
        using (VirtioBlockDevice disk = VirtioBlockDevice.Open(device, arena, options))
        {
            // Each round writes over some of the former one's pages and leaves some alone.
            foreach ((int piece, int count, ulong sector) in new[] { (0, 4, 0ul), (2, 3, 20_000ul), (4, 4, 40_000ul), (1, 1, 60_000ul) })
            {
                PinnedBuffer[] buffers = [.. Enumerable.Range(piece, count).Select(i => data.Slice(i * PieceBytes, PieceBytes))];
                byte[] before = data.Span.ToArray();
                BlockTransfer.Read(disk, new SectorRange(sector, sector + (ulong)(count * PieceBytes / 512) - 1), buffers, (_, _) => { });
                Assert.IsFalse(data.Span.SequenceEqual(before), "the disk must have something to write");
                Assert.AreEqual(0, disk.InFlight);
                // The driver's own stores into the ring.
                dirty.Written(arena);
                chain.Add(new MemoryStream());
                PoolExportHeader header = chain.Count == 1 ? PoolExporter.ExportBase(pool, chain[0]) : PoolExporter.ExportChanges(pool, chain[^1]);
                Assert.AreEqual(DirtyPrecision.Exact, header.Precision);
                if (chain.Count > 1)
                {
                    ulong own = ((ulong)arena.Length + Page - 1) / Page * Page;
                    Assert.AreEqual(own + (ulong)(count * PieceBytes), header.DataBytes, "what was written since the last export, no less and no more");
                }
            }

            // While the disk is open and idle: closing it writes the ring's memory again.
            chain.ForEach(s => s.Position = 0);
            PoolExporter.Restore(copy, chain);
            Assert.IsTrue(Bytes(pool).SequenceEqual(Bytes(copy)));
        }

        pool.Free(data);
        pool.Free(arena);
    }

    private static ReadOnlySpan<byte> Bytes(PinnedPool pool) => new((byte*)pool.Segments[0].Address.Value, (int)pool.Length);

    private static PinnedPoolOptions Pool(string name) => new()
    {
        Name = name,
        Size = 4 << 20,
        Backings = [MemoryBacking.Pages4KiB],
        Checked = false,
    };
}
