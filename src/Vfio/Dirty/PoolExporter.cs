using System.Buffers.Binary;
using Vfio.Linux;

namespace Vfio;

/// <summary>Writes a pool, or what changed in it, to a stream, and puts a chain of such exports back into a pool.</summary>
public static class PoolExporter
{
    private const int MostExtent = 1 << 20;

    /// <summary>Writes everything in the pool that is not zero, and starts a chain: the record counts from here.</summary>
    /// <param name="pool">The pool, with a record of writes.</param>
    /// <param name="stream">Where to.</param>
    /// <param name="sources">Who shall tell what is written from here on.</param>
    /// <returns>The head of the export.</returns>
    /// <exception cref="IOException">Writing failed; the record is as it was.</exception>
    public static PoolExportHeader ExportBase(PinnedPool pool, Stream stream, DirtySources sources = DirtySources.OwnRecord)
    {
        ArgumentNullException.ThrowIfNull(stream);
        DirtyTracker tracker = Tracker(pool);
        return Alone(pool, tracker, () =>
        {
            long generation = tracker.Generation;
            // Taken before anything is copied: what is written while copying counts for the next export.
            DirtyAnswer taken = tracker.Harvest(sources);
            var id = Guid.NewGuid();
            return Export(pool, tracker, taken, generation, stream, () => NotZero(pool), extents => new PoolExportHeader(
                id, null, id, 0, pool.Length, DirtyPrecision.Exact, taken.Sources, (ulong)extents.Count, Sum(extents)));
        });
    }

    /// <summary>Writes the pages that changed since the last export.</summary>
    /// <param name="pool">The pool, with a record of writes.</param>
    /// <param name="stream">Where to.</param>
    /// <param name="since">The export to follow, which must be the last one made of this pool; null for whichever that is.</param>
    /// <param name="sources">Who shall tell what was written.</param>
    /// <returns>The head of the export.</returns>
    /// <exception cref="LinuxException">There is no last export, or it is another one.</exception>
    /// <exception cref="IOException">Writing failed; the record is as it was.</exception>
    public static PoolExportHeader ExportChanges(PinnedPool pool, Stream stream, Guid? since = null, DirtySources sources = DirtySources.OwnRecord)
    {
        ArgumentNullException.ThrowIfNull(stream);
        DirtyTracker tracker = Tracker(pool);
        return Alone(pool, tracker, () =>
        {
            long generation = tracker.Generation;
            PoolExportHeader? last = tracker.LastExport;
            if (last is null || (since is not null && since != last.Id))
            {
                throw NoChain(pool, since, last);
            }

            DirtyAnswer taken = tracker.Harvest(sources);
            if (tracker.Generation != generation)
            {
                tracker.PutBack(taken);
                throw NoChain(pool, since, null);
            }

            return Export(pool, tracker, taken, generation, stream, () => Cut(taken.Ranges()), extents => new PoolExportHeader(
                Guid.NewGuid(), last.Id, last.Chain, last.Sequence + 1, pool.Length, taken.Precision, taken.Sources, (ulong)extents.Count, Sum(extents)));
        });
    }

    /// <summary>Puts a chain of exports back. Everything is checked before the first byte of the pool is changed.</summary>
    /// <param name="pool">The pool, at least as long as the exported one, with nothing lent out.</param>
    /// <param name="chain">The exports in order, the base first; each can be read twice.</param>
    /// <exception cref="InvalidDataException">An export is damaged, or is not the one that follows; the pool is as it was.</exception>
    /// <exception cref="LinuxException">The pool is too small, or in use.</exception>
    public static void Restore(PinnedPool pool, IReadOnlyList<Stream> chain)
    {
        ArgumentNullException.ThrowIfNull(pool);
        ArgumentNullException.ThrowIfNull(chain);
        PoolUse use = pool.Use();
        if (use.Bytes > 0)
        {
            throw new LinuxException("pool restore", Errno.EBUSY, pool.Name, "a device or a caller may be writing the pool", "restore into a new pool");
        }

        PoolExportHeader? last = null;
        foreach (Stream stream in chain)
        {
            long start = stream.Position;
            PoolExportHeader header = PoolExportHeader.Read(stream);
            CheckFollows(last, header);
            if (header.PoolLength > pool.Length)
            {
                throw new LinuxException("pool restore", Errno.EINVAL, $"{pool.Name} has {ByteSize.Text(pool.Length)}",
                    $"the exported pool had {ByteSize.Text(header.PoolLength)}", "make the pool at least as large");
            }

            ReadExtents(stream, header, static (_, _) => { });
            stream.Position = start;
            last = header;
        }

        if (last is null)
        {
            throw new InvalidDataException("there is no export to restore");
        }

        try
        {
            // What the base leaves out was zero.
            foreach (PoolSegment segment in pool.Segments)
            {
                foreach (DirtyRange piece in Pieces(segment.Length))
                {
                    Bytes(segment, piece).Clear();
                }
            }

            foreach (Stream stream in chain)
            {
                ReadExtents(stream, PoolExportHeader.Read(stream), (at, bytes) => CopyIn(pool, at, bytes));
            }
        }
        finally
        {
            // Also when a file could not be read a second time.
            pool.Dirty?.Mark(new PoolOffset(0), pool.Length);
        }
    }

    private static PoolExportHeader Alone(PinnedPool pool, DirtyTracker tracker, Func<PoolExportHeader> export)
    {
        if (!tracker.Exporting.TryEnter())
        {
            throw new LinuxException("pool export", Errno.EBUSY, pool.Name, "another export of the pool is being written", "wait until that has ended");
        }

        try
        {
            return export();
        }
        finally
        {
            tracker.Exporting.Exit();
        }
    }

    private static LinuxException NoChain(PinnedPool pool, Guid? since, PoolExportHeader? last) => new(
        "pool export", Errno.EINVAL, $"{pool.Name} since {since?.ToString() ?? "the last export"}",
        last is null ? "the pool's record does not count from an export" : $"the pool's record counts from export {last.Id}",
        "start a chain with a base export");

    private static PoolExportHeader Export(
        PinnedPool pool, DirtyTracker tracker, DirtyAnswer taken, long generation, Stream stream, Func<List<DirtyRange>> choose, Func<List<DirtyRange>, PoolExportHeader> head)
    {
        try
        {
            List<DirtyRange> extents = choose();
            PoolExportHeader header = head(extents);
            header.Write(stream);
            Span<byte> bytes = stackalloc byte[PoolExportHeader.ExtentBytes];
            byte[] copy = new byte[MostExtent];
            foreach (DirtyRange extent in extents)
            {
                // Copied once: the checksum is of the bytes that are written, whatever a device writes meanwhile.
                Span<byte> pages = copy.AsSpan(0, (int)extent.Length);
                CopyOut(pool, extent.First, pages);
                BinaryPrimitives.WriteUInt64LittleEndian(bytes, extent.First.Value);
                BinaryPrimitives.WriteUInt64LittleEndian(bytes[8..], extent.Length);
                BinaryPrimitives.WriteUInt32LittleEndian(bytes[16..], PoolExportHeader.Checksum(pages));
                BinaryPrimitives.WriteUInt32LittleEndian(bytes[20..], PoolExportHeader.Checksum(bytes[..20]));
                stream.Write(bytes);
                stream.Write(pages);
            }

            if (stream is FileStream file)
            {
                // A disk that fails may say so only now, and the marks are not to be gone then.
                file.Flush(flushToDisk: true);
            }
            else
            {
                stream.Flush();
            }

            tracker.Exported(header, generation);
            return header;
        }
        catch
        {
            tracker.PutBack(taken);
            throw;
        }
    }

    private static void ReadExtents(Stream stream, PoolExportHeader header, Action<PoolOffset, byte[]> use)
    {
        Span<byte> head = stackalloc byte[PoolExportHeader.ExtentBytes];
        ulong data = 0;
        ulong next = 0;
        for (ulong i = 0; i < header.Extents; i++)
        {
            if (stream.ReadAtLeast(head, head.Length, throwOnEndOfStream: false) < head.Length)
            {
                throw new InvalidDataException($"export {header.Id} ends in extent {i} of {header.Extents}");
            }

            ulong offset = BinaryPrimitives.ReadUInt64LittleEndian(head);
            ulong length = BinaryPrimitives.ReadUInt64LittleEndian(head[8..]);
            if (BinaryPrimitives.ReadUInt32LittleEndian(head[20..]) != PoolExportHeader.Checksum(head[..20])
                || length is 0 or > MostExtent || offset < next || offset > header.PoolLength || length > header.PoolLength - offset)
            {
                throw new InvalidDataException($"export {header.Id}: the head of extent {i} is damaged");
            }

            byte[] pages = new byte[length];
            if (stream.ReadAtLeast(pages, pages.Length, throwOnEndOfStream: false) < pages.Length
                || BinaryPrimitives.ReadUInt32LittleEndian(head[16..]) != PoolExportHeader.Checksum(pages))
            {
                throw new InvalidDataException($"export {header.Id}: the pages of extent {i} (at {new PoolOffset(offset)}) are damaged");
            }

            use(new PoolOffset(offset), pages);
            next = offset + length;
            data += length;
        }

        if (data != header.DataBytes)
        {
            throw new InvalidDataException($"export {header.Id} holds {data} bytes and should hold {header.DataBytes}");
        }
    }

    private static void CheckFollows(PoolExportHeader? last, PoolExportHeader header)
    {
        if (last is null)
        {
            if (header.Base is not null)
            {
                throw new InvalidDataException($"export {header.Id} follows {header.Base}, and no base comes before it; a chain starts with its base");
            }
        }
        else if (header.Base != last.Id || header.Chain != last.Chain || header.Sequence != last.Sequence + 1)
        {
            throw new InvalidDataException(
                $"export {header.Id} (number {header.Sequence} of chain {header.Chain}) follows {header.Base?.ToString() ?? "none"}, not {last.Id} (number {last.Sequence} of chain {last.Chain})");
        }
    }

    private static DirtyTracker Tracker(PinnedPool pool)
    {
        ArgumentNullException.ThrowIfNull(pool);
        return pool.Dirty ?? throw new LinuxException("pool export", Errno.EOPNOTSUPP, pool.Name, "the pool keeps no record of writes", "make the pool with one");
    }

    private static ulong Sum(List<DirtyRange> extents)
    {
        ulong sum = 0;
        foreach (DirtyRange extent in extents)
        {
            sum += extent.Length;
        }

        return sum;
    }

    private static List<DirtyRange> NotZero(PinnedPool pool)
    {
        var extents = new List<DirtyRange>();
        foreach (PoolSegment segment in pool.Segments)
        {
            for (ulong at = 0; at < segment.Length; at += DirtyBitmap.PageSize)
            {
                if (Bytes(segment, new DirtyRange(new PoolOffset(at), DirtyBitmap.PageSize)).ContainsAnyExcept((byte)0))
                {
                    Append(extents, new DirtyRange(segment.Offset + at, DirtyBitmap.PageSize));
                }
            }
        }

        return extents;
    }

    // Extents of at most MostExtent bytes, so that one buffer holds any of them.
    private static List<DirtyRange> Cut(IEnumerable<DirtyRange> ranges)
    {
        var extents = new List<DirtyRange>();
        foreach (DirtyRange range in ranges)
        {
            foreach (DirtyRange piece in Pieces(range.Length))
            {
                extents.Add(piece with { First = range.First + piece.First.Value });
            }
        }

        return extents;
    }

    private static void Append(List<DirtyRange> extents, DirtyRange page)
    {
        if (extents.Count > 0 && extents[^1] is var last && last.First + last.Length == page.First && last.Length + page.Length <= MostExtent)
        {
            extents[^1] = last with { Length = last.Length + page.Length };
        }
        else
        {
            extents.Add(page);
        }
    }

    private static IEnumerable<DirtyRange> Pieces(ulong length)
    {
        for (ulong at = 0; at < length; at += MostExtent)
        {
            yield return new DirtyRange(new PoolOffset(at), Math.Min(MostExtent, length - at));
        }
    }

    private static void CopyOut(PinnedPool pool, PoolOffset at, Span<byte> bytes) => Copy(pool, at, bytes, into: false);

    private static void CopyIn(PinnedPool pool, PoolOffset at, byte[] bytes) => Copy(pool, at, bytes, into: true);

    private static void Copy(PinnedPool pool, PoolOffset at, Span<byte> bytes, bool into)
    {
        int done = 0;
        while (done < bytes.Length)
        {
            PoolOffset here = at + (ulong)done;
            PoolSegment segment = pool.Segments.First(s => s.Offset <= here && here.Value < s.Offset.Value + s.Length);
            ulong offset = here - segment.Offset;
            int part = (int)Math.Min((ulong)(bytes.Length - done), segment.Length - offset);
            Span<byte> memory = Bytes(segment, new DirtyRange(new PoolOffset(offset), (ulong)part));
            Span<byte> ours = bytes.Slice(done, part);
            if (into)
            {
                ours.CopyTo(memory);
            }
            else
            {
                memory.CopyTo(ours);
            }

            done += part;
        }
    }

    // SAFETY: the range lies in the segment, which the caller's pool keeps mapped; a device may write it, and then the copy is torn and its
    // page is marked when the write completes.
    private static unsafe Span<byte> Bytes(PoolSegment segment, DirtyRange range) =>
        new((byte*)(segment.Address + range.First.Value).Value, (int)range.Length);
}
