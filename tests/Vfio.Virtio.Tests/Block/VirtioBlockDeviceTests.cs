using Vfio.Testing;

namespace Vfio.Virtio.Tests;

/// <summary>The block driver on a simulated device that keeps to the specification, or does not in one chosen point.</summary>
[TestClass]
public sealed class VirtioBlockDeviceTests
{
    private const int Piece = 8192;
    private static readonly bool[] PollOrInterrupt = [false, true];

    public static IEnumerable<object[]> Rings =>
        from features in RingPair.AllFeatures
        from interrupts in PollOrInterrupt
        select new object[] { (ulong)features, interrupts };

    [TestMethod]
    [DynamicData(nameof(Rings))]
    public void Reads_writes_and_flushes(ulong features, bool interrupts)
    {
        var options = new VirtioBlockOptions
        {
            Depth = 7,
            UseInterrupts = interrupts,
            RingFeatures = (VirtioFeatures)features & ~VirtioFeatures.Version1,
            Timeout = TimeSpan.FromSeconds(20),
        };
        using var sim = new SimDisk(options: options);
        using (VirtioBlockDevice disk = sim.Open())
        {
            Assert.AreEqual((VirtioFeatures)features | VirtioFeatures.AccessPlatform, disk.Info.Features);
            byte[] read = new byte[sim.Model.Medium.Length];
            BlockTransfer.Read(disk, new SectorRange(0, disk.Info.Sectors - 1), sim.Buffers(11, Piece),
                (sectors, data) => data.Span.CopyTo(read.AsSpan((int)sectors.First * 512)));
            CollectionAssert.AreEqual(sim.Model.Medium.ToArray(), read);

            byte[] written = new byte[100 * 512];
            Random.Shared.NextBytes(written);
            BlockTransfer.Write(disk, new SectorRange(5, 104), sim.Buffers(3, 1024),
                (sectors, data) => written.AsSpan((int)(sectors.First - 5) * 512, data.Length).CopyTo(data.Span));
            disk.Flush();
            CollectionAssert.AreEqual(written, sim.Model.Medium.Slice(5 * 512, written.Length).ToArray());
            Assert.AreEqual(1, sim.Model.Requests[4]);
        }

        Assert.AreEqual(0, sim.Model.Status, "reset");
        sim.Unmap();
    }

    [TestMethod]
    [DataRow(1, BlockOperation.Read, "read of sectors 8-23", "VIRTIO_BLK_S_IOERR")]
    [DataRow(2, BlockOperation.Read, "read of sectors 8-23", "VIRTIO_BLK_S_UNSUPP")]
    [DataRow(1, BlockOperation.Write, "write of sectors 8-23", "VIRTIO_BLK_S_IOERR")]
    [DataRow(1, BlockOperation.Flush, "flush", "VIRTIO_BLK_S_IOERR")]
    public void Failed_request_names_its_sectors_and_the_device_stays_usable(int status, BlockOperation operation, string what, string cause)
    {
        using var sim = new SimDisk(new SimVirtioBlockOptions { Answer = (_, _) => (byte)status });
        using VirtioBlockDevice disk = sim.Open();
        VirtioException e = Assert.ThrowsExactly<VirtioException>(() =>
        {
            switch (operation)
            {
                case BlockOperation.Read:
                    disk.Read(8, sim.Data(0, Piece));
                    break;
                case BlockOperation.Write:
                    disk.Write(8, sim.Data(0, Piece));
                    break;
                default:
                    disk.Flush();
                    break;
            }
        });
        StringAssert.Contains(e.Message, $"virtio 0000:00:04.0: {what}");
        StringAssert.Contains(e.Message, cause);
        sim.Model.Options.Answer = null;
        disk.Read(8, sim.Data(0, Piece));
        CollectionAssert.AreEqual(sim.Model.Medium.Slice(8 * 512, Piece).ToArray(), sim.Data(0, Piece).Span.ToArray());
    }

    [TestMethod]
    public void Failed_piece_of_a_transfer_ends_it_with_nothing_in_flight()
    {
        using var sim = new SimDisk(new SimVirtioBlockOptions { Answer = (_, sector) => sector == 160 ? (byte)1 : null });
        using VirtioBlockDevice disk = sim.Open();
        VirtioException e = Assert.ThrowsExactly<VirtioException>(() =>
            BlockTransfer.Read(disk, new SectorRange(0, 2047), sim.Buffers(16, Piece), (_, _) => { }));
        StringAssert.Contains(e.Message, "read of sectors 160-175");
        Assert.AreEqual(0, disk.InFlight);
    }

    [TestMethod]
    public void Nonsense_answers_reset_the_device()
    {
        Check("with status 9", new SimVirtioBlockOptions { Answer = (_, _) => 9 });
        Check("with status 255", new SimVirtioBlockOptions { WritesNoStatus = true });
        Check("wrote 8192 of 8193 bytes", new SimVirtioBlockOptions { LengthOf = n => n - 1 });
        Check("UsedLengthTooLarge", new SimVirtioBlockOptions { LengthOf = n => n + 1 });

        static void Check(string expected, SimVirtioBlockOptions model)
        {
            using var sim = new SimDisk(model, new VirtioBlockOptions { RingFeatures = VirtioFeatures.None });
            using VirtioBlockDevice disk = sim.Open();
            VirtioException e = Assert.ThrowsExactly<VirtioException>(() => disk.Read(0, sim.Data(0, Piece)));
            StringAssert.Contains(e.Message, expected);
            Assert.AreEqual(0, sim.Model.Status, "reset before anybody hears of it");
            sim.Unmap();
            Assert.ThrowsExactly<ObjectDisposedException>(() => disk.Read(0, sim.Data(0, Piece)));
        }
    }

    [TestMethod]
    [DataRow(false)]
    [DataRow(true)]
    public void Device_that_needs_a_reset_or_hangs_is_reset(bool interrupts)
    {
        foreach (bool givesUp in (bool[])[true, false])
        {
            var options = new VirtioBlockOptions { UseInterrupts = interrupts, Timeout = TimeSpan.FromMilliseconds(givesUp ? 20_000 : 50) };
            using var sim = new SimDisk(new SimVirtioBlockOptions { IsSilent = true }, options);
            using VirtioBlockDevice disk = sim.Open();
            if (givesUp)
            {
                sim.Model.GiveUp();
            }

            VirtioException e = Assert.ThrowsExactly<VirtioException>(() => disk.Read(0, sim.Data(0, Piece)));
            StringAssert.Contains(e.Message, givesUp ? "DEVICE_NEEDS_RESET" : "ended none of 1 requests");
            Assert.AreEqual(0, sim.Model.Status);
            sim.Unmap();
        }
    }

    [TestMethod]
    public void Dispose_in_the_middle_resets_before_memory_goes()
    {
        using var sim = new SimDisk(new SimVirtioBlockOptions { IsSilent = true });
        using (VirtioBlockDevice disk = sim.Open())
        {
            Assert.IsTrue(disk.TryRead(0, sim.Data(0, Piece), 1));
            Assert.IsTrue(disk.TryWrite(0, sim.Data(Piece, Piece), 2));
            disk.Submit();
            Assert.AreEqual(2, disk.InFlight);
        }

        Assert.AreEqual(0, sim.Model.Status);
        sim.Unmap();
        // A device that was not reset would now reach for memory, which the simulated kernel would not forgive.
        sim.Model.Serve();
    }

    [TestMethod]
    public void Reset_that_does_not_end_is_said()
    {
        using var sim = new SimDisk();
        VirtioBlockDevice disk = sim.Open();
        sim.Model.Options.IsStuck = true;
        VirtioException e = Assert.ThrowsExactly<VirtioException>(disk.Dispose);
        StringAssert.Contains(e.Message, "does not come back from a reset");
    }

    [TestMethod]
    public void Device_that_hangs_through_its_reset_is_never_taken_for_stopped()
    {
        var options = new VirtioBlockOptions { Timeout = TimeSpan.FromMilliseconds(50) };
        using var sim = new SimDisk(new SimVirtioBlockOptions { IsSilent = true }, options);
        VirtioBlockDevice disk = sim.Open();
        sim.Model.Options.IsStuck = true;
        Assert.ThrowsExactly<VirtioException>(() => disk.Read(0, sim.Data(0, Piece)));

        // Whoever frees the buffer after a dispose that says nothing gives memory away that the device still writes.
        Assert.ThrowsExactly<VirtioException>(disk.Dispose);
        sim.Model.Options.IsStuck = false;
        disk.Dispose();
        Assert.AreEqual(0, sim.Model.Status);
        disk.Dispose();
        sim.Unmap();
    }

    [TestMethod]
    public void Cancelled_transfer_ends_its_requests_and_leaves_the_device_usable()
    {
        using var sim = new SimDisk();
        using VirtioBlockDevice disk = sim.Open();
        using var cancellation = new CancellationTokenSource();
        Assert.ThrowsExactly<OperationCanceledException>(() => BlockTransfer.Read(
            disk, new SectorRange(0, 2047), sim.Buffers(4, Piece), (_, _) => cancellation.Cancel(), cancellation.Token));
        Assert.AreEqual(0, disk.InFlight);
        disk.Read(0, sim.Data(0, Piece));
    }

    [TestMethod]
    public void Cancelled_transfer_of_a_device_that_hangs_resets_it()
    {
        var options = new VirtioBlockOptions { Timeout = TimeSpan.FromSeconds(1) };
        using var sim = new SimDisk(new SimVirtioBlockOptions { IsSilent = true }, options);
        using VirtioBlockDevice disk = sim.Open();
        using var cancellation = new CancellationTokenSource();
        var canceller = Task.Run(() =>
        {
            Assert.IsTrue(SpinWait.SpinUntil(() => disk.InFlight == 4, TimeSpan.FromSeconds(30)));
            cancellation.Cancel();
        });
        VirtioException e = Assert.ThrowsExactly<VirtioException>(() => BlockTransfer.Read(
            disk, new SectorRange(0, 2047), sim.Buffers(4, Piece), (_, _) => { }, cancellation.Token));
        canceller.Wait();
        StringAssert.Contains(e.Message, "ended none of 4 requests");
        Assert.AreEqual(0, disk.InFlight);
        Assert.AreEqual(0, sim.Model.Status);
        sim.Unmap();
    }

    [TestMethod]
    public void Missing_features_name_the_option_that_gives_them()
    {
        Check(VirtioFeatures.AccessPlatform, "VIRTIO_F_VERSION_1", "disable-legacy=on");
        Check(VirtioFeatures.Version1, "VIRTIO_F_ACCESS_PLATFORM", "iommu_platform=on");

        static void Check(VirtioFeatures offered, string feature, string option)
        {
            using var sim = new SimDisk(new SimVirtioBlockOptions { Features = offered });
            VirtioException e = Assert.ThrowsExactly<VirtioException>(sim.Open);
            StringAssert.Contains(e.Message, feature);
            StringAssert.Contains(e.Message, option);
            Assert.AreEqual(0, sim.Model.Status);
        }
    }

    [TestMethod]
    public void Broken_device_is_refused_with_what_is_wrong()
    {
        Check("does not accept the features", new SimVirtioBlockOptions { RefusesFeatures = true });
        Check("names no usable common structure", new SimVirtioBlockOptions { MissingCapability = 1 });
        Check("names no usable notify structure", new SimVirtioBlockOptions { MissingCapability = 2 });
        Check("names no usable common structure", new SimVirtioBlockOptions { StrayCapability = 1 });
        Check("names no usable notify structure", new SimVirtioBlockOptions { StrayCapability = 2 });
        Check("names no usable notify structure", new SimVirtioBlockOptions { MissingCapability = 2, LoopsCapabilities = true });
        Check("has no configuration", new SimVirtioBlockOptions { MissingCapability = 4 });
        Check("the doorbell of queue 0 is at 0x28, outside the 4 bytes", new SimVirtioBlockOptions { NotifyOffset = 10, NotifyLength = 4 });
        Check("its queue has 0 entries", new SimVirtioBlockOptions { QueueSize = 0 });
        Check("its queue has 2 entries", new SimVirtioBlockOptions { QueueSize = 2 });
        Check("changed under each of 100 reads", new SimVirtioBlockOptions { ConfigurationChanges = int.MaxValue });
        Check("its blocks have 513 bytes", new SimVirtioBlockOptions
        {
            BlockSize = 513,
            Features = VirtioFeatures.Version1 | VirtioFeatures.AccessPlatform | (VirtioFeatures)VirtioBlockFeatures.BlockSize,
        });

        static void Check(string expected, SimVirtioBlockOptions model)
        {
            using var sim = new SimDisk(model);
            VirtioException e = Assert.ThrowsExactly<VirtioException>(sim.Open);
            StringAssert.Contains(e.Message, expected);
            sim.Unmap();
        }
    }

    [TestMethod]
    public void Looping_capability_list_is_walked_once_around_and_used()
    {
        using var sim = new SimDisk(new SimVirtioBlockOptions { LoopsCapabilities = true });
        using VirtioBlockDevice disk = sim.Open();
        disk.Read(0, sim.Data(0, Piece));
    }

    [TestMethod]
    public void Configuration_that_changes_while_it_is_read_is_read_again()
    {
        using var sim = new SimDisk(new SimVirtioBlockOptions { ConfigurationChanges = 3 });
        using VirtioBlockDevice disk = sim.Open();
        Assert.AreEqual(2048ul, disk.Info.Sectors);
    }

    [TestMethod]
    public void Interrupts_without_vectors_are_refused()
    {
        using var sim = new SimDisk(new SimVirtioBlockOptions { MsixVectors = 0 }, new VirtioBlockOptions { UseInterrupts = true });
        VirtioException e = Assert.ThrowsExactly<VirtioException>(sim.Open);
        StringAssert.Contains(e.Message, "no MSI-X interrupts");
    }

    [TestMethod]
    public void Ranges_that_the_device_does_not_have_are_refused_before_it_hears_of_them()
    {
        using var sim = new SimDisk(new SimVirtioBlockOptions
        {
            BlockSize = 4096,
            Features = VirtioFeatures.Version1 | VirtioFeatures.AccessPlatform
                | (VirtioFeatures)(VirtioBlockFeatures.BlockSize | VirtioBlockFeatures.ReadOnly),
        });
        using VirtioBlockDevice disk = sim.Open();
        Check("the device ends after sector 2047", () => disk.Read(2048, sim.Data(0, 4096)));
        Check("the device ends after sector 2047", () => disk.Read(2040, sim.Data(0, 8192)));
        Check("the device ends after sector 2047", () => disk.Read(ulong.MaxValue - 7, sim.Data(0, 8192)));
        Check("whole blocks of 4096 bytes", () => disk.Read(1, sim.Data(0, 4096)));
        Check("whole blocks of 4096 bytes", () => disk.Read(0, sim.Data(0, 512)));
        Check("whole blocks of 4096 bytes", () => disk.Read(0, default));
        Check("read-only", () => disk.Write(0, sim.Data(0, 4096)));
        Check("VIRTIO_BLK_F_FLUSH", disk.Flush);
        Assert.IsEmpty(sim.Model.Requests);
        disk.Read(2040, sim.Data(0, 4096));

        static void Check(string expected, Action action) =>
            StringAssert.Contains(Assert.ThrowsExactly<VirtioException>(action).Message, expected);
    }

    [TestMethod]
    public void Requests_keep_to_the_devices_limits()
    {
        using var sim = new SimDisk(
            new SimVirtioBlockOptions
            {
                SizeMax = 1000,
                SegMax = 4,
                QueueSize = 16,
                Features = VirtioFeatures.Version1 | VirtioFeatures.AccessPlatform
                    | (VirtioFeatures)(VirtioBlockFeatures.SizeMax | VirtioBlockFeatures.SegMax),
            });
        using VirtioBlockDevice disk = sim.Open();
        Assert.AreEqual(16, disk.Info.QueueSize);
        Assert.AreEqual(3584, disk.MaxRequestBytes);
        byte[] read = new byte[sim.Model.Medium.Length];
        BlockTransfer.Read(disk, new SectorRange(0, 2047), sim.Buffers(8, Piece),
            (sectors, data) => data.Span.CopyTo(read.AsSpan((int)sectors.First * 512)));
        CollectionAssert.AreEqual(sim.Model.Medium.ToArray(), read);
        Assert.AreEqual((4, 1000u), sim.Model.LargestPieces);
        VirtioException e = Assert.ThrowsExactly<VirtioException>(() => disk.Read(0, sim.Data(0, 4096)));
        StringAssert.Contains(e.Message, "at most 3584 bytes");
    }

    [TestMethod]
    public void What_the_device_wrote_is_told()
    {
        var wrote = new List<IovaRange>();
        using var sim = new SimDisk(options: new VirtioBlockOptions { DeviceWrote = wrote.Add });
        using VirtioBlockDevice disk = sim.Open();
        PinnedBuffer data = sim.Data(4096, Piece);
        disk.Read(0, data);
        CollectionAssert.Contains(wrote, IovaRange.Of(data.Iova, Piece));
        Assert.HasCount(3, wrote, "data, status byte, ring");
        wrote.Clear();
        disk.Write(0, data);
        Assert.HasCount(2, wrote, "status byte, ring");
        Assert.IsFalse(wrote.Any(range => range.Overlaps(IovaRange.Of(data.Iova, Piece))));
        Assert.IsTrue(wrote.All(sim.Range.Contains));
    }
}
