using System.Security.Cryptography;
using Vfio.Virtio;

namespace Vfio.GuestTests;

/// <summary>A real virtio-blk device of QEMU's, behind an IOMMU, driven from this process.</summary>
[TestClass]
public sealed class BlockDiskTests
{
    private const int BufferBytes = 64 << 10;
    private static string? _sum;

    [TestMethod]
    [DataRow(false, VirtioFeatures.None, 4)]
    [DataRow(false, VirtioFeatures.RingPacked | VirtioFeatures.RingEventIdx | VirtioFeatures.RingIndirectDesc, 32)]
    [DataRow(true, VirtioFeatures.RingEventIdx | VirtioFeatures.RingIndirectDesc, 32)]
    [DataRow(true, VirtioFeatures.RingPacked | VirtioFeatures.RingEventIdx | VirtioFeatures.RingIndirectDesc, 32)]
    public void Whole_disk_is_read_as_the_kernel_reads_it(bool interrupts, VirtioFeatures ring, int depth)
    {
        _sum ??= SumByKernel();
        var options = new VirtioBlockOptions { Depth = depth, UseInterrupts = interrupts, RingFeatures = ring };
        using BlockDisk opened = BlockDisk.Open(options, depth * BufferBytes);
        VirtioBlockInfo info = opened.Disk.Info;
        Assert.IsTrue(info.Features.HasFlag(VirtioFeatures.Version1 | VirtioFeatures.AccessPlatform));
        Assert.AreEqual(ring, info.Features & (VirtioFeatures.RingEventIdx | VirtioFeatures.RingIndirectDesc | VirtioFeatures.RingPacked));
        using var sum = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        ulong next = 0;
        BlockTransfer.Read(opened.Disk, new SectorRange(0, info.Sectors - 1), opened.Buffers(depth, BufferBytes), (sectors, data) =>
        {
            Assert.AreEqual(next, sectors.First, "in order");
            next = sectors.Last + 1;
            sum.AppendData(data.Span);
        });
        Assert.AreEqual(info.Sectors, next);
        Assert.AreEqual(_sum, Convert.ToHexString(sum.GetHashAndReset()));
    }

    [TestMethod]
    public void What_is_written_is_read_again_here_and_by_the_kernel()
    {
        const ulong First = 1000;
        byte[] written = new byte[20 * BufferBytes];
        Random.Shared.NextBytes(written);
        byte[] before = new byte[written.Length];
        using (BlockDisk opened = BlockDisk.Open(new VirtioBlockOptions(), 16 * BufferBytes))
        {
            var range = new SectorRange(First, First + ((ulong)written.Length / 512) - 1);
            PinnedBuffer[] buffers = opened.Buffers(16, BufferBytes);
            BlockTransfer.Read(opened.Disk, range, buffers, (s, data) => data.Span.CopyTo(before.AsSpan((int)(s.First - First) * 512)));
            BlockTransfer.Write(opened.Disk, range, buffers, (s, data) => written.AsSpan((int)(s.First - First) * 512, data.Length).CopyTo(data.Span));
            opened.Disk.Flush();
            byte[] again = new byte[written.Length];
            BlockTransfer.Read(opened.Disk, range, buffers, (s, data) => data.Span.CopyTo(again.AsSpan((int)(s.First - First) * 512)));
            CollectionAssert.AreEqual(written, again);
        }

        using (FileStream kernel = BlockDisk.OpenByKernel())
        {
            byte[] seen = new byte[written.Length];
            kernel.Position = (long)First * 512;
            kernel.ReadExactly(seen);
            CollectionAssert.AreEqual(written, seen);
        }

        using BlockDisk restore = BlockDisk.Open(new VirtioBlockOptions(), 16 * BufferBytes);
        BlockTransfer.Write(
            restore.Disk, new SectorRange(First, First + ((ulong)before.Length / 512) - 1), restore.Buffers(16, BufferBytes),
            (s, data) => before.AsSpan((int)(s.First - First) * 512, data.Length).CopyTo(data.Span));
    }

    [TestMethod]
    public void Dispose_in_the_middle_stops_the_device_before_its_memory_goes()
    {
        // The kernel's log is checked after the run: a device that still wrote would be a DMA fault there.
        for (int round = 0; round < 20; round++)
        {
            using BlockDisk opened = BlockDisk.Open(new VirtioBlockOptions(), 32 * BufferBytes);
            foreach (PinnedBuffer buffer in opened.Buffers(32, BufferBytes))
            {
                Assert.IsTrue(opened.Disk.TryRead(0, buffer, 0));
            }

            opened.Disk.Submit();
            Assert.AreEqual(32, opened.Disk.InFlight);
        }
    }

    [TestMethod]
    public void Cancelled_transfer_leaves_nothing_in_flight_and_the_device_usable()
    {
        using BlockDisk opened = BlockDisk.Open(new VirtioBlockOptions(), 32 * BufferBytes);
        using var cancellation = new CancellationTokenSource();
        int pieces = 0;
        Assert.ThrowsExactly<OperationCanceledException>(() => BlockTransfer.Read(
            opened.Disk, new SectorRange(0, opened.Disk.Info.Sectors - 1), opened.Buffers(32, BufferBytes),
            (_, _) =>
            {
                if (++pieces == 5)
                {
                    cancellation.Cancel();
                }
            }, cancellation.Token));
        Assert.AreEqual(0, opened.Disk.InFlight);
        opened.Disk.Read(0, opened.Data(0, BufferBytes));
    }

    [TestMethod]
    public void Read_beyond_the_end_is_refused_before_the_device_hears_of_it()
    {
        using BlockDisk opened = BlockDisk.Open(new VirtioBlockOptions(), BufferBytes);
        VirtioException e = Assert.ThrowsExactly<VirtioException>(
            () => opened.Disk.Read(opened.Disk.Info.Sectors - 1, opened.Data(0, 1024)));
        StringAssert.Contains(e.Message, "the device ends after sector");
        Assert.AreEqual(0, opened.Disk.InFlight);
        opened.Disk.Read(opened.Disk.Info.Sectors - 1, opened.Data(0, 512));
    }

    // Once for all cases: the kernel's driver is bound for it, and no test leaves the disk changed.
    private static string SumByKernel()
    {
        using FileStream kernel = BlockDisk.OpenByKernel();
        return Convert.ToHexString(SHA256.HashData(kernel));
    }
}
