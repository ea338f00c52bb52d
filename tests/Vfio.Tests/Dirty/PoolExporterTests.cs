using Vfio.Linux;

namespace Vfio.Tests;

[TestClass]
public sealed class PoolExporterTests(TestContext context)
{
    private static PinnedPool Pool(string name = "export", ulong size = 8 << 20) => PinnedPool.Create(new PinnedPoolOptions
    {
        Name = name,
        Size = size,
        Backings = [MemoryBacking.Pages4KiB],
        BufferSize = 8192,
        Checked = false,
    });

    [TestMethod]
    public void A_chain_of_exports_restored_into_a_new_pool_gives_identical_bytes()
    {
        Random random = Seed.Start(context);
        using PinnedPool pool = Pool();
        pool.Grow(3 << 20);
        DirtyTracker dirty = pool.Dirty!;
        var rented = new List<PinnedBuffer>();
        for (int i = 0; i < 900; i++)
        {
            rented.Add(pool.Rent());
        }

        var chain = new List<MemoryStream> { new() };
        Write(200);
        PoolExportHeader first = PoolExporter.ExportBase(pool, chain[0]);
        Assert.IsNull(first.Base);
        PoolExportHeader last = first;
        for (int i = 1; i <= 4; i++)
        {
            Write(random.Next(1, 100));
            chain.Add(new MemoryStream());
            PoolExportHeader next = PoolExporter.ExportChanges(pool, chain[i], since: last.Id);
            Assert.AreEqual((last.Id, first.Id, (ulong)i, DirtyPrecision.Exact), (next.Base!.Value, next.Chain, next.Sequence, next.Precision));
            Assert.IsLessThan(11ul << 20, next.DataBytes);
            last = next;
        }

        using PinnedPool copy = Pool("copy", 11 << 20);
        // What was there before must not shine through.
        PinnedBuffer old = copy.Allocate(11 << 20);
        old.Span.Fill(0x55);
        copy.Free(old);
        chain.ForEach(s => s.Position = 0);
        PoolExporter.Restore(copy, chain);
        Assert.IsTrue(Contents(pool).SequenceEqual(Contents(copy)));

        rented.ForEach(b => pool.Return(b));

        void Write(int count)
        {
            for (int i = 0; i < count; i++)
            {
                PinnedBuffer buffer = rented[random.Next(rented.Count)];
                int start = random.Next(buffer.Length);
                PinnedBuffer part = buffer.Slice(start, random.Next(buffer.Length - start));
                if (random.Next(2) == 0)
                {
                    random.NextBytes(part.Span);
                    dirty.Written(part);
                }
                else
                {
                    // As a device does: only the bytes that it reports are written.
                    dirty.BeginDeviceWrite(buffer);
                    int written = random.Next(buffer.Length);
                    random.NextBytes(buffer.Span[..written]);
                    dirty.EndDeviceWrite(buffer, written);
                }
            }
        }
    }

    [TestMethod]
    public void A_wrong_chain_is_refused_and_the_pool_stays_as_it_was()
    {
        using PinnedPool pool = Pool();
        PinnedBuffer buffer = pool.Rent();
        using var start = new MemoryStream();
        using var one = new MemoryStream();
        using var two = new MemoryStream();
        buffer.Span.Fill(1);
        pool.Dirty!.Written(buffer);
        PoolExporter.ExportBase(pool, start);
        buffer.Span.Fill(2);
        pool.Dirty.Written(buffer);
        PoolExporter.ExportChanges(pool, one);
        buffer.Span.Fill(3);
        pool.Dirty.Written(buffer);
        PoolExporter.ExportChanges(pool, two);
        pool.Return(buffer);

        using PinnedPool copy = Pool("copy");
        Refused([one], "no base comes before");
        Refused([start, two], "follows");
        Refused([start, one, one], "follows");
        Refused([], "no export");
        using var torn = new MemoryStream(one.ToArray()[..^1]);
        Refused([start, torn, two], "damaged");
        byte[] flipped = one.ToArray();
        flipped[^100] ^= 1;
        using var wrong = new MemoryStream(flipped);
        Refused([start, wrong], "pages of extent 0 (at +0x0) are damaged");
        byte[] head = start.ToArray();
        head[40] ^= 1;
        using var headWrong = new MemoryStream(head);
        Refused([headWrong], "head is damaged");
        using var text = new MemoryStream("hello"u8.ToArray());
        Refused([text], "no export of a pool");
        Assert.IsFalse(Contents(copy).ContainsAnyExcept((byte)0));

        PinnedBuffer used = copy.Rent();
        start.Position = 0;
        Assert.AreEqual(Errno.EBUSY, Assert.ThrowsExactly<LinuxException>(() => PoolExporter.Restore(copy, [start])).Errno);
        copy.Return(used);
        using PinnedPool small = Pool("small", 4 << 20);
        start.Position = 0;
        Assert.Contains("at least as large", Assert.ThrowsExactly<LinuxException>(() => PoolExporter.Restore(small, [start])).Message);

        void Refused(MemoryStream[] chain, string why)
        {
            Array.ForEach(chain, s => s.Position = 0);
            Assert.Contains(why, Assert.ThrowsExactly<InvalidDataException>(() => PoolExporter.Restore(copy, chain)).Message);
        }
    }

    [TestMethod]
    public void An_export_that_cannot_be_written_loses_no_mark_and_the_chain_goes_on()
    {
        using PinnedPool pool = Pool();
        PinnedBuffer buffer = pool.Rent();
        using var good = new MemoryStream();
        PoolExporter.ExportBase(pool, good);
        buffer.Span.Fill(7);
        pool.Dirty!.Written(buffer);
        using var full = new MemoryStream(new byte[200]);
        Assert.ThrowsExactly<NotSupportedException>(() => PoolExporter.ExportChanges(pool, full));
        Assert.AreEqual(2ul, pool.Dirty.Peek().DirtyPages);
        using var again = new MemoryStream();
        Assert.AreEqual(8192ul, PoolExporter.ExportChanges(pool, again).DataBytes);
        Assert.AreEqual(0ul, pool.Dirty.Peek().DirtyPages);
        LinuxException e = Assert.ThrowsExactly<LinuxException>(() => PoolExporter.ExportChanges(pool, again, since: Guid.NewGuid()));
        Assert.Contains("base export", e.Message);
        pool.Return(buffer);
    }

    [TestMethod]
    public void A_disk_that_fails_when_flushed_loses_no_mark()
    {
        using PinnedPool pool = Pool();
        PinnedBuffer buffer = pool.Rent();
        using var good = new MemoryStream();
        Guid last = PoolExporter.ExportBase(pool, good).Id;
        pool.Dirty!.Written(buffer);
        string path = Path.GetTempFileName();
        using (var failing = new FailingFile(path))
        {
            Assert.ThrowsExactly<IOException>(() => PoolExporter.ExportChanges(pool, failing));
        }

        File.Delete(path);
        Assert.AreEqual((2ul, last), (pool.Dirty.Peek().DirtyPages, pool.Dirty.LastExport!.Id));
        pool.Return(buffer);
    }

    [TestMethod]
    public void A_second_export_is_refused_while_one_is_written_and_a_restart_in_between_ends_the_chain()
    {
        using PinnedPool pool = Pool();
        PinnedBuffer buffer = pool.Rent();
        using var good = new MemoryStream();
        using var second = new MemoryStream();
        PoolExporter.ExportBase(pool, good);
        pool.Dirty!.Written(buffer);
        using var stream = new CallingStream(() => Task.Factory.StartNew(
            () =>
            {
                Assert.AreEqual(Errno.EBUSY, Assert.ThrowsExactly<LinuxException>(() => PoolExporter.ExportChanges(pool, second)).Errno);
                pool.Dirty.Written(buffer);
                pool.Dirty.Restart();
            },
            CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default).GetAwaiter().GetResult());
        PoolExporter.ExportChanges(pool, stream);
        // The write in between is in no export and no more in the record: a chain that went on would miss it.
        Assert.IsNull(pool.Dirty.LastExport);
        Assert.ThrowsExactly<LinuxException>(() => PoolExporter.ExportChanges(pool, second));
        pool.Return(buffer);
    }

    [TestMethod]
    public void A_restore_that_fails_half_way_marks_what_it_changed()
    {
        using PinnedPool pool = Pool();
        PinnedBuffer buffer = pool.Rent();
        buffer.Span.Fill(3);
        using var export = new MemoryStream();
        PoolExporter.ExportBase(pool, export);
        pool.Return(buffer);
        pool.Dirty!.Restart();
        export.Position = 0;
        // Good the first time, torn the second.
        using var torn = new MemoryStream();
        torn.Write(export.ToArray());
        torn.Position = 0;
        using var twice = new CallingStream(() => { }) { Inner = torn, FailsAfterRewind = true };
        Assert.ThrowsExactly<IOException>(() => PoolExporter.Restore(pool, [twice]));
        Assert.AreEqual(pool.Length / 4096, pool.Dirty.Peek().DirtyPages);
    }

    [TestMethod]
    public void Pages_that_a_device_may_be_writing_stay_marked_and_make_the_answer_a_superset()
    {
        using PinnedPool pool = Pool();
        DirtyTracker dirty = pool.Dirty!;
        PinnedBuffer buffer = pool.Rent();
        dirty.BeginDeviceWrite(buffer);
        DirtyAnswer first = dirty.Harvest();
        Assert.AreEqual((2ul, 2ul, DirtyPrecision.Superset), (first.DirtyPages, first.InFlightPages, first.Precision));
        DirtyAnswer second = dirty.Harvest();
        Assert.AreEqual(2ul, second.DirtyPages);
        dirty.EndDeviceWrite(buffer, 100);
        DirtyAnswer third = dirty.Harvest();
        // The second page was marked again while it was in flight, and was never written.
        Assert.AreEqual((2ul, 0ul, DirtyPrecision.Superset), (third.DirtyPages, third.InFlightPages, third.Precision));
        DirtyAnswer fourth = dirty.Harvest();
        Assert.AreEqual((0ul, DirtyPrecision.Exact), (fourth.DirtyPages, fourth.Precision));
        dirty.BeginDeviceWrite(buffer);
        dirty.EndDeviceWrite(buffer);
        DirtyAnswer fifth = dirty.Harvest();
        Assert.AreEqual((2ul, DirtyPrecision.Superset), (fifth.DirtyPages, fifth.Precision), "nobody knows what was written");
        dirty.NoteForeignWriter("attach: pid 7");
        DirtyAnswer unknown = dirty.Harvest();
        Assert.AreEqual((DirtyPrecision.Unknown, 2048ul), (unknown.Precision, unknown.DirtyPages));
        pool.Return(buffer);
    }

    [TestMethod]
    public void Shrinking_ends_a_chain_since_what_grows_there_again_is_zero()
    {
        using PinnedPool pool = Pool();
        using var stream = new MemoryStream();
        pool.Grow(4 << 20);
        PoolExporter.ExportBase(pool, stream);
        pool.Shrink(4 << 20);
        pool.Grow(4 << 20);
        Assert.ThrowsExactly<LinuxException>(() => PoolExporter.ExportChanges(pool, stream));
        Assert.AreEqual(0ul, pool.Dirty!.Peek().DirtyPages);
    }

    private sealed class FailingFile(string path) : FileStream(path, FileMode.Open, FileAccess.Write)
    {
        public override void Flush(bool flushToDisk)
        {
            if (flushToDisk)
            {
                throw new IOException("the disk is broken");
            }

            base.Flush(flushToDisk);
        }
    }

    // Calls before the first write; can fail every read after it was rewound.
    private sealed class CallingStream(Action call) : Stream
    {
        private Action? _call = call;
        private bool _rewound;

        public Stream Inner { get; init; } = new MemoryStream();

        public bool FailsAfterRewind { get; init; }

        public override bool CanRead => true;

        public override bool CanSeek => true;

        public override bool CanWrite => true;

        public override long Length => Inner.Length;

        public override long Position
        {
            get => Inner.Position;
            set
            {
                _rewound = true;
                Inner.Position = value;
            }
        }

        public override void Flush() => Inner.Flush();

        public override int Read(byte[] buffer, int offset, int count) =>
            _rewound && FailsAfterRewind ? throw new IOException("the disk is broken") : Inner.Read(buffer, offset, count);

        public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();

        public override void SetLength(long value) => throw new NotSupportedException();

        public override void Write(byte[] buffer, int offset, int count)
        {
            Interlocked.Exchange(ref _call, null)?.Invoke();
            Inner.Write(buffer, offset, count);
        }
    }

    private static unsafe ReadOnlySpan<byte> Contents(PinnedPool pool)
    {
        byte[] all = new byte[pool.Length];
        foreach (PoolSegment segment in pool.Segments)
        {
            new Span<byte>((byte*)segment.Address.Value, (int)segment.Length).CopyTo(all.AsSpan((int)segment.Offset.Value));
        }

        return all;
    }
}
