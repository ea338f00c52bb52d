using System.Security.Cryptography;
using Vfio.Linux;
using Vfio.Service;

namespace Vfio.GuestTests;

/// <summary>Pages of 1 GiB, and memory near the device. <c>tools/test</c> boots a machine for this category: an edu device on node 1, which
/// has one page of 1 GiB and 16 of 2 MiB; node 0 has 520 of those.</summary>
[TestClass]
[TestCategory("Numa")]
public sealed class NumaTests
{
    private const ulong MiB = 1 << 20;
    private const ulong GiB = 1 << 30;

    private static readonly PciAddress Far = PciAddress.Parse("0000:81:00.0");

    [TestMethod]
    public void A_page_of_1_GiB_is_one_map_near_the_device_which_writes_its_last_bytes()
    {
        using EduDevice edu = EduDevice.Open(Far);
        var pinner = new Pinner(edu.Container.Iommu);
        ulong lockedBefore = MemlockLimit.Read().Used;
        using (PinnedPool pool = PinnedPool.Create(Pool(GiB, MemoryBacking.Huge1GiB, MemoryBacking.Huge2MiB) with { Node = new PciBus().Get(Far).NumaNode }, pinner))
        {
            Assert.AreEqual((1L, 1, GiB), (pool.MapCalls, pool.EntriesUsed, pool.PinnedBytes));
            PoolSegment segment = pool.Segments[0];
            Assert.AreEqual(GiB, segment.Placement!.PageSize);
            Assert.AreEqual(GiB, segment.Placement.NodeBytes[1]);
            Assert.AreEqual((0ul, 0ul), (segment.Iova.Value % GiB, segment.Address.Value % GiB), "the IOMMU can use one page for it");
            Assert.AreEqual(lockedBefore + GiB, MemlockLimit.Read().Used);

            // Larger pieces come from the top.
            PinnedBuffer end = pool.Allocate(2 * EduDevice.TransferSize);
            Assert.AreEqual(segment.Iova.Value + GiB, end.Iova.Value + (ulong)end.Length);
            RandomNumberGenerator.Fill(end.Span[..EduDevice.TransferSize]);
            edu.ReadFromMemory(end.Iova, EduDevice.TransferSize);
            edu.WriteToMemory(end.Iova + EduDevice.TransferSize, EduDevice.TransferSize);
            Assert.IsTrue(end.Span[..EduDevice.TransferSize].SequenceEqual(end.Span[EduDevice.TransferSize..]));
            pool.Free(end);

            // There is no second one: it is told, or 2 MiB pages are taken by one who gave leave.
            LinuxException e = Assert.ThrowsExactly<LinuxException>(() => PinnedPool.Create(Pool(GiB, MemoryBacking.Huge1GiB), pinner));
            Assert.Contains("huge pages: 1 pages of 1GiB needed, 0 pages of 1GiB there, 1 pages of 1GiB short", e.Message);
            Assert.Contains("/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages", e.Message);
            Assert.AreEqual((GiB, 1), (pool.Length, pinner.EntriesUsed));
            pool.Grow(GiB);
            Assert.AreEqual((MemoryBacking.Huge2MiB, 2 * MiB), (pool.Segments[1].Backing, pool.Segments[1].Placement!.PageSize));
            Assert.AreEqual((2, 2 * GiB), (pool.EntriesUsed, pinner.PinnedBytes));
        }

        Assert.AreEqual((0, lockedBefore), (pinner.EntriesUsed, MemlockLimit.Read().Used));
    }

    [TestMethod]
    public void A_pool_prefers_its_devices_node_and_tells_what_it_got()
    {
        GuestPci.BindToVfio(Far);
        using var engine = new Engine();
        PoolInfo made = PoolOperations.Create.Run(
            engine, new PoolRequest("near", 32 * MiB) { Devices = [Far], PageSizes = ["2MiB"] }, new OperationContext());
        AssertOn(1, 32 * MiB, made.Segments[0]);

        // The node has no page left, and another helps out.
        PoolInfo grown = PoolOperations.Grow.Run(engine, new PoolGrowth("near", 4 * MiB), new OperationContext());
        AssertOn(0, 4 * MiB, grown.Segments[1]);
        PoolOperations.Destroy.Run(engine, new PoolName("near"), new OperationContext());

        PoolInfo wished = PoolOperations.Create.Run(
            engine, new PoolRequest("wished", 4 * MiB) { Devices = [Far], PageSizes = ["2MiB"], Node = 0 }, new OperationContext());
        AssertOn(0, 4 * MiB, wished.Segments[0]);
        PoolOperations.Destroy.Run(engine, new PoolName("wished"), new OperationContext());
    }

    private static void AssertOn(int node, ulong bytes, SegmentInfo segment)
    {
        Assert.HasCount(1, segment.Nodes!);
        Assert.AreEqual(bytes, segment.Nodes![node]);
    }

    private static PinnedPoolOptions Pool(ulong size, params MemoryBacking[] backings) => new()
    {
        Name = "numa",
        Size = size,
        Backings = backings,
        Checked = false,
    };
}
