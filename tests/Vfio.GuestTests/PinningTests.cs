using System.Security.Cryptography;
using Vfio.Linux;

namespace Vfio.GuestTests;

/// <summary>Pinning on the real kernel: what it refuses, and that every attempt ends with the pages, entries and locked bytes it started
/// with.</summary>
[TestClass]
public sealed unsafe class PinningTests
{
    private const ulong Page = 4096;
    private const ulong MiB = 1 << 20;
    private const string EntryLimit = "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit";

    private static readonly Sysfs Sys = new();
    private static readonly PinOptions BestEffort = new() { Policy = PinPolicy.BestEffort };

    [TestMethod]
    public void A_hole_and_a_read_only_page_are_found_and_the_rest_is_pinned()
    {
        using var rig = new Rig();
        HostRange memory = rig.Memory(64);
        Assert.AreEqual(0, LibC.munmap((nint)(memory.First + (20 * Page)).Value, (nuint)Page));

        LinuxException e = Assert.ThrowsExactly<LinuxException>(() => rig.Pinner.Register([ReadWrite(memory)]));
        Assert.AreEqual(Errno.EFAULT, e.Errno);
        Assert.Contains((memory.First + (20 * Page)).ToString(), e.Message);
        Assert.Contains("populating had failed before: ", e.Message);
        Assert.Contains("ENOMEM (12): part of it is mapped to nothing", e.Message);
        rig.AssertAsBefore();

        Assert.AreEqual(0, LibC.mprotect((nint)(memory.First + (41 * Page)).Value, (nuint)Page, Mman.PROT_READ));

        using (RegisteredMemory registered = rig.Pinner.Register([ReadWrite(memory)], BestEffort))
        {
            CollectionAssert.AreEqual(
                new[] { memory.First + (20 * Page), memory.First + (41 * Page) }, registered.Failures.Select(f => f.Host.First).ToArray());
            Assert.IsTrue(registered.Failures.All(f => f.Errno == Errno.EFAULT && f.Host.Length == Page));
            Assert.AreEqual(rig.LockedBefore + (62 * Page), MemlockLimit.Read().Used);
            rig.AssertDeviceReaches(registered, memory.First + (63 * Page));
        }

        rig.AssertAsBefore();

        // Read-only is enough for a device that only reads.
        using (RegisteredMemory registered = rig.Pinner.Register([new PinRange(memory, DmaAccess.Read)], BestEffort))
        {
            Assert.AreEqual(memory.First + (20 * Page), registered.Failures.Single().Host.First);
        }

        rig.AssertAsBefore();
        GC.KeepAlive(rig);
    }

    // A page that was never written may be one of zeros that all share, which kernels before 6.2 pin for a device that only reads: the first
    // store moves to another page, and the device would never see it.
    [TestMethod]
    public void What_is_stored_after_pinning_is_what_a_device_reads_that_only_reads()
    {
        using var rig = new Rig();
        using MappedMemory fresh = MappedMemory.Anonymous(64 * Page);
        var memory = HostRange.Of(new HostAddress((ulong)fresh.Address), fresh.Length);
        // So that not all of it can be populated in one way.
        Assert.AreEqual(0, LibC.mprotect((nint)(memory.First + (20 * Page)).Value, (nuint)Page, Mman.PROT_READ));
        Assert.AreEqual(0, LibC.mprotect((nint)(memory.First + (41 * Page)).Value, (nuint)Page, Mman.PROT_NONE));
        HostRange target = rig.Memory(1);
        using (RegisteredMemory registered = rig.Pinner.Register([new PinRange(memory, DmaAccess.Read)], BestEffort))
        using (RegisteredMemory written = rig.Pinner.Register([ReadWrite(target)]))
        {
            Assert.AreEqual(memory.First + (41 * Page), registered.Failures.Single().Host.First);
            foreach (ulong page in (ulong[])[0, 19, 21, 40, 42, 63])
            {
                HostAddress source = memory.First + (page * Page);
                var bytes = new Span<byte>((void*)source.Value, EduDevice.TransferSize);
                RandomNumberGenerator.Fill(bytes);
                Assert.IsTrue(registered.TryTranslate(source, out Iova from, out _));
                rig.Edu.ReadFromMemory(from, EduDevice.TransferSize);
                rig.Edu.WriteToMemory(written.Mappings[0].Iova.First, EduDevice.TransferSize);
                Assert.IsTrue(bytes.SequenceEqual(new Span<byte>((void*)target.First.Value, EduDevice.TransferSize)), $"page {page}");
            }
        }

        rig.AssertAsBefore();
    }

    [TestMethod]
    public void Device_memory_inside_a_range_is_mapped_and_does_not_count_as_locked()
    {
        using var rig = new Rig();
        HostRange memory = rig.Memory(5);
        // BAR 0 of the device itself, at offset 0 of its descriptor (VFIO_PCI_INDEX_TO_OFFSET).
        nint bar = LibC.mmap((nint)(memory.First + (2 * Page)).Value, (nuint)Page, Mman.PROT_READ | Mman.PROT_WRITE,
            Mman.MAP_SHARED | Mman.MAP_FIXED, rig.Edu.Device.Descriptor.Number, 0);
        Assert.AreEqual((nint)(memory.First + (2 * Page)).Value, bar);
        using (RegisteredMemory registered = rig.Pinner.Register([ReadWrite(memory)]))
        {
            Assert.HasCount(1, registered.Mappings);
            Assert.AreEqual(rig.LockedBefore + (4 * Page), MemlockLimit.Read().Used);
            rig.AssertDeviceReaches(registered, memory.First + (4 * Page));
        }

        rig.AssertAsBefore();
    }

    [TestMethod]
    public void Over_the_memlock_limit_an_unprivileged_thread_is_told_and_leaves_nothing_locked()
    {
        using var rig = new Rig();
        HostRange memory = rig.Memory(64);
        using var limit = new UnprivilegedThread(32 * Page);

        // Found before anything is touched.
        LinuxException e = Assert.ThrowsExactly<LinuxException>(() => rig.Pinner.Register([ReadWrite(memory)]));
        Assert.AreEqual(Errno.ENOMEM, e.Errno);
        Assert.Contains("RLIMIT_MEMLOCK: 256 KiB needed", e.Message);
        Assert.Contains("LimitMEMLOCK=", e.Message);
        Assert.AreEqual(0, rig.Pinner.MapCalls);
        LinuxException pool = Assert.ThrowsExactly<LinuxException>(() => PinnedPool.Create(Pool(1 * MiB, MemoryBacking.Pages4KiB), rig.Pinner));
        Assert.Contains("prlimit --pid", pool.Message);

        // The kernel's own answer, which it also comes to without our arithmetic.
        using (RegisteredMemory registered = rig.Pinner.Register([ReadWrite(memory)], BestEffort))
        {
            PinFailure failure = registered.Failures.Single();
            Assert.AreEqual((Errno.ENOMEM, 32 * Page), (failure.Errno, failure.Host.Length));
            Assert.IsLessThanOrEqualTo(14, rig.Pinner.MapCalls);
        }

        rig.AssertAsBefore();
    }

    [TestMethod]
    public void Over_the_entry_limit_the_need_is_told_and_the_limit_is_never_passed()
    {
        string former = Sys.TryRead(EntryLimit)!;
        Sys.Write(EntryLimit, "8");
        try
        {
            using var rig = new Rig();
            Assert.AreEqual(8u, rig.EntriesBefore);
            HostRange memory = rig.Memory(32);
            PinOptions pages = new() { Grain = Page };
            LinuxException e = Assert.ThrowsExactly<LinuxException>(() => rig.Pinner.Register([ReadWrite(memory)], pages));
            Assert.AreEqual(Errno.ENOSPC, e.Errno);
            Assert.Contains("32 entries needed, 8 entries there, 24 entries short", e.Message);
            Assert.Contains("dma_entry_limit", e.Message);
            rig.AssertAsBefore();

            using (RegisteredMemory part = rig.Pinner.Register([ReadWrite(memory)], pages with { Policy = PinPolicy.BestEffort }))
            {
                Assert.HasCount(8, part.Mappings);
                Assert.AreEqual((Errno.ENOSPC, 24 * Page), (part.Failures.Single().Errno, part.Failures.Single().Host.Length));
            }

            rig.AssertAsBefore();

            // The plan fits, and holes split it into more maps than there are entries.
            for (ulong hole = 1; hole < 32; hole += 2)
            {
                Assert.AreEqual(0, LibC.munmap((nint)(memory.First + (hole * Page)).Value, (nuint)Page));
            }

            using (RegisteredMemory part = rig.Pinner.Register([ReadWrite(memory)], BestEffort))
            {
                Assert.HasCount(8, part.Mappings);
                Assert.IsTrue(part.Failures.Any(f => f.Errno == Errno.ENOSPC));
            }

            rig.AssertAsBefore();
        }
        finally
        {
            Sys.Write(EntryLimit, former);
        }
    }

    [TestMethod]
    public void An_iova_that_somebody_mapped_is_refused_by_the_kernel_and_explained()
    {
        using var rig = new Rig();
        HostRange memory = rig.Memory(8);
        HostRange other = rig.Memory(4);
        IovaRange taken = IovaRange.Of(new Iova(0x40_0000), other.Length);
        rig.Edu.Container.Iommu.Map(taken, other.First, DmaAccess.Read);
        LinuxException e = Assert.ThrowsExactly<LinuxException>(
            () => rig.Pinner.Register([ReadWrite(memory)], new PinOptions { At = taken.First + (2 * Page) }));
        Assert.AreEqual(Errno.EEXIST, e.Errno);
        Assert.IsNotNull(e.Cure);

        // With best effort what lies beside it is pinned.
        using (RegisteredMemory part = rig.Pinner.Register([ReadWrite(memory)], BestEffort with { At = taken.First + (2 * Page) }))
        {
            PinFailure failure = part.Failures.Single();
            Assert.AreEqual((Errno.EEXIST, HostRange.Of(memory.First, 2 * Page)), (failure.Errno, failure.Host));
            Assert.AreEqual(rig.LockedBefore + other.Length + (6 * Page), MemlockLimit.Read().Used);
            rig.AssertDeviceReaches(part, memory.First + (7 * Page));
        }

        rig.Edu.Container.Iommu.Unmap(taken);
        rig.AssertAsBefore();
    }

    [TestMethod]
    public void A_gigabyte_of_4_KiB_pages_is_one_map_and_leaves_nothing()
    {
        const ulong Length = 1024 * MiB;
        using var rig = new Rig();
        int reports = 0;
        var progress = new Counter(() => Interlocked.Increment(ref reports));
        using (PinnedPool pool = PinnedPool.Create(Pool(Length, MemoryBacking.Pages4KiB) with { Progress = progress }, rig.Pinner))
        {
            Assert.AreEqual((1L, 1, 1), (rig.Pinner.MapCalls, pool.EntriesUsed, rig.Pinner.EntriesUsed));
            Assert.AreEqual(rig.LockedBefore + Length, MemlockLimit.Read().Used);
            Assert.IsGreaterThanOrEqualTo(32, reports);
            // Each page is one of its own, and small.
            PoolPlacement placement = pool.Segments[0].Placement!;
            Assert.AreEqual((Page, 0ul, Length), (placement.PageSize, placement.TransparentBytes, placement.NodeBytes!.Values.Aggregate(0ul, (sum, n) => sum + n)));
            rig.AssertDeviceReaches(pool);
        }

        rig.AssertAsBefore();
    }

    [TestMethod]
    [DataRow(MemoryBacking.Huge2MiB)]
    [DataRow(MemoryBacking.Transparent)]
    [DataRow(MemoryBacking.Pages4KiB)]
    public void A_pool_is_one_map_and_the_device_writes_its_buffers(MemoryBacking backing)
    {
        using var rig = new Rig();
        using (PinnedPool pool = PinnedPool.Create(Pool(64 * MiB, backing), rig.Pinner))
        {
            Assert.AreEqual((1L, 1, 64 * MiB), (pool.MapCalls, pool.EntriesUsed, pool.PinnedBytes));
            PoolPlacement placement = pool.Segments[0].Placement!;
            Assert.AreEqual(backing.IsReserved() ? backing.PageSize() : Page, placement.PageSize);
            Assert.AreEqual(backing == MemoryBacking.Transparent, placement.TransparentBytes > 0, $"{placement.TransparentBytes} bytes in transparent huge pages");
            Assert.AreEqual(backing != MemoryBacking.Transparent, pool.Segments[0].File is not null);
            rig.AssertDeviceReaches(pool);
            if (backing != MemoryBacking.Huge2MiB)
            {
                pool.Grow(8 * MiB);
                pool.Shrink(8 * MiB);
            }
        }

        rig.AssertAsBefore();
    }

    [TestMethod]
    public void More_huge_pages_than_are_free_are_refused_with_the_command_that_reserves_them()
    {
        using var rig = new Rig();
        LinuxException e = Assert.ThrowsExactly<LinuxException>(() => PinnedPool.Create(Pool(1024 * MiB, MemoryBacking.Huge2MiB), rig.Pinner));
        Assert.Contains("512 pages of 2MiB needed", e.Message);
        Assert.Contains("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", e.Message);
        rig.AssertAsBefore();
    }

    [TestMethod]
    public void Exports_between_device_writes_restore_to_identical_bytes()
    {
        using var rig = new Rig();
        using (PinnedPool pool = PinnedPool.Create(Pool(8 * MiB, MemoryBacking.Pages4KiB), rig.Pinner))
        using (PinnedPool copy = PinnedPool.Create(Pool(8 * MiB, MemoryBacking.Pages4KiB) with { Name = "copy" }, rig.Pinner))
        {
            var held = new List<PinnedBuffer>();
            var chain = new List<MemoryStream>();
            for (int round = 0; round < 3; round++)
            {
                for (int i = 0; i < 5; i++)
                {
                    PinnedBuffer source = pool.Rent();
                    PinnedBuffer target = pool.Rent();
                    RandomNumberGenerator.Fill(source.Span);
                    pool.Dirty!.Written(source);
                    rig.Edu.ReadFromMemory(source.Iova, EduDevice.TransferSize);
                    pool.Dirty.BeginDeviceWrite(target);
                    rig.Edu.WriteToMemory(target.Iova, EduDevice.TransferSize);
                    pool.Dirty.EndDeviceWrite(target, EduDevice.TransferSize);
                    held.AddRange([source, target]);
                }

                chain.Add(new MemoryStream());
                PoolExportHeader header = round == 0 ? PoolExporter.ExportBase(pool, chain[0]) : PoolExporter.ExportChanges(pool, chain[round]);
                Assert.AreEqual(10 * Page, header.DataBytes);
                Assert.AreEqual(DirtyPrecision.Exact, header.Precision);
            }

            chain.ForEach(s => s.Position = 0);
            PoolExporter.Restore(copy, chain);
            var before = new ReadOnlySpan<byte>((byte*)pool.Segments[0].Address.Value, (int)pool.Length);
            var after = new ReadOnlySpan<byte>((byte*)copy.Segments[0].Address.Value, (int)copy.Length);
            Assert.IsTrue(before.SequenceEqual(after));

            // The kernel, asked the same, names every page: an upper bound for an ordinary device.
            pool.Dirty!.StartKernel();
            DirtyAnswer kernel = pool.Dirty.Harvest(DirtySources.Kernel);
            Assert.AreEqual((DirtyPrecision.Superset, 2048ul), (kernel.Precision, kernel.DirtyPages));
            pool.Dirty.StopKernel();
            held.ForEach(b => pool.Return(b));
        }

        rig.AssertAsBefore();
    }

    [TestMethod]
    public void What_the_kernel_knows_of_registered_memory_is_told_as_it_is_unmapped()
    {
        using var rig = new Rig();
        HostRange memory = rig.Memory(100);
        RegisteredMemory registered = rig.Pinner.Register(ReadWrite(memory), new PinOptions { Grain = 64 * Page });
        DmaMapping[] mappings = [.. registered.Mappings];
        rig.Edu.Container.Iommu.StartDirtyTracking();
        rig.AssertDeviceReaches(registered, memory.First + (70 * Page));
        IReadOnlyList<UnmappedMemory> unmapped = registered.Release();
        CollectionAssert.AreEquivalent(mappings, unmapped.Select(u => u.Mapping).ToArray());
        Assert.IsTrue(unmapped.All(u => u.Dirty.Precision == DirtyPrecision.Superset && u.Dirty.DirtyPages == u.Mapping.Host.Length / Page));
        rig.AssertAsBefore();
        rig.Edu.Container.Iommu.StopDirtyTracking();
        Assert.IsEmpty(rig.Pinner.Register(ReadWrite(memory)).Release());
        rig.AssertAsBefore();
    }

    private static PinRange ReadWrite(HostRange range) => new(range, DmaAccess.ReadWrite);

    private static PinnedPoolOptions Pool(ulong size, MemoryBacking backing) => new()
    {
        Name = "test",
        Size = size,
        Backings = [backing],
        Checked = false,
    };

    private sealed class Counter(Action count) : IProgress<PopulateProgress>
    {
        public void Report(PopulateProgress value) => count();
    }

    /// <summary>The device's container and its pinner, and what there was before.</summary>
    private sealed class Rig : IDisposable
    {
        private readonly List<MappedMemory> _memory = [];

        public Rig()
        {
            Edu = EduDevice.Open();
            Pinner = new Pinner(Edu.Container.Iommu);
            LockedBefore = MemlockLimit.Read().Used;
            EntriesBefore = Edu.Container.Iommu.AvailableEntries!.Value;
        }

        public EduDevice Edu { get; }

        public Pinner Pinner { get; }

        public ulong LockedBefore { get; }

        public uint EntriesBefore { get; }

        public HostRange Memory(int pages)
        {
            MappedMemory memory = MappedMemory.Anonymous((ulong)pages * Page);
            _memory.Add(memory);
            new Span<byte>((void*)memory.Address, (int)memory.Length).Fill(1);
            return HostRange.Of(new HostAddress((ulong)memory.Address), memory.Length);
        }

        public void AssertDeviceReaches(RegisteredMemory registered, HostAddress page)
        {
            Assert.IsTrue(registered.TryTranslate(page, out Iova iova, out _));
            var bytes = new Span<byte>((void*)page.Value, (int)Page);
            RandomNumberGenerator.Fill(bytes);
            Edu.ReadFromMemory(iova, EduDevice.TransferSize);
            Edu.WriteToMemory(iova + EduDevice.TransferSize, EduDevice.TransferSize);
            Assert.IsTrue(bytes[..EduDevice.TransferSize].SequenceEqual(bytes[EduDevice.TransferSize..]));
        }

        public void AssertDeviceReaches(PinnedPool pool)
        {
            PinnedBuffer source = pool.Rent();
            PinnedBuffer target = pool.Rent();
            RandomNumberGenerator.Fill(source.Span);
            Edu.ReadFromMemory(source.Iova, EduDevice.TransferSize);
            Edu.WriteToMemory(target.Iova, EduDevice.TransferSize);
            Assert.IsTrue(source.Span[..EduDevice.TransferSize].SequenceEqual(target.Span[..EduDevice.TransferSize]));
            pool.Return(target);
            pool.Return(source);
        }

        public void AssertAsBefore()
        {
            Edu.Container.Iommu.Refresh();
            Assert.AreEqual(EntriesBefore, Edu.Container.Iommu.AvailableEntries, "entries");
            Assert.AreEqual(LockedBefore, MemlockLimit.Read().Used, "locked bytes");
            Assert.AreEqual((0, 0ul), (Pinner.EntriesUsed, Pinner.PinnedBytes));
        }

        public void Dispose()
        {
            Edu.Dispose();
            _memory.ForEach(m => m.Dispose());
        }
    }

    /// <summary>Makes this thread an ordinary user's with a memlock limit, until it is disposed. The kernel knows credentials by the
    /// thread, so the process's others stay root.</summary>
    private sealed class UnprivilegedThread : IDisposable
    {
        private const int SetResUid = 117;
        private const int User = 1000;
        private readonly rlimit _former;

        public UnprivilegedThread(ulong limit)
        {
            rlimit former;
            Assert.AreEqual(0, LibC.getrlimit(Resource.RLIMIT_MEMLOCK, &former));
            _former = former;
            var soft = new rlimit { rlim_cur = limit, rlim_max = former.rlim_max };
            Assert.AreEqual(0, LibC.setrlimit(Resource.RLIMIT_MEMLOCK, &soft));
            // The saved id stays root's, so that the way back is open.
            Assert.AreEqual(0, LibC.syscall(SetResUid, User, User, 0, 0, 0, 0));
            string status = Sys.TryRead("/proc/thread-self/status")!;
            Assert.IsTrue(status.Contains("CapEff:\t0000000000000000", StringComparison.Ordinal), status);
        }

        public void Dispose()
        {
            Assert.AreEqual(0, LibC.syscall(SetResUid, 0, 0, 0, 0, 0, 0));
            rlimit former = _former;
            Assert.AreEqual(0, LibC.setrlimit(Resource.RLIMIT_MEMLOCK, &former));
        }
    }
}
