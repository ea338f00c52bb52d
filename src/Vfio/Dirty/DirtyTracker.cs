using Vfio.Linux;

namespace Vfio;

/// <summary>Knows which pages of a pool were written since they were last asked for, by whom it is told: drivers report what they hand to
/// devices and what comes back, and writers report their own stores.</summary>
/// <remarks>
/// <para>Reporting is thread-safe, takes no lock and allocates nothing. Answers are taken one at a time.</para>
/// <para>A store into a buffer's bytes that nobody reports is not in the record: call <see cref="Written"/> after it.</para>
/// <para>When anything fails on the way to an answer, what had been taken is put back: a page named too often costs a copy, one left out
/// costs data.</para>
/// </remarks>
public sealed class DirtyTracker
{
    private readonly PinnedPool _pool;
    private readonly Lock _lock = new();
    private SegmentRecord[] _records = [];
    private string? _foreign;
    private bool _kernel;
    private bool _mixed;
    // Buffers that came back without anybody knowing what was written: begun to be marked, marked, and those of them whose marks were taken.
    private long _guesses;
    private long _guessesMarked;
    private long _guessesTaken;
    private long _generation;

    internal DirtyTracker(PinnedPool pool) => _pool = pool;

    /// <summary>Why the own record cannot be whole, or null when it is: another process writes the pool, for instance.</summary>
    public string? ForeignWriter => Volatile.Read(ref _foreign);

    /// <summary>Whether the kernel's tracking was started here.</summary>
    public bool KernelIsTracking => Volatile.Read(ref _kernel);

    /// <summary>The last export, which the record counts from; null before the first, or when the record was broken since.</summary>
    public PoolExportHeader? LastExport { get; private set; }

    /// <summary>Held by the one who exports: two at once would follow the same export, each with half of the pages.</summary>
    internal Lock Exporting { get; } = new();

    /// <summary>Changes whenever marks were dropped, so that no chain can go over that.</summary>
    internal long Generation => Interlocked.Read(ref _generation);

    /// <summary>Reports that this process wrote bytes.</summary>
    /// <param name="written">The bytes: a buffer, or the slice of one that was written.</param>
    /// <exception cref="ArgumentException">They are not in the pool.</exception>
    public void Written(in PinnedBuffer written)
    {
        if (written.Length == 0)
        {
            return;
        }

        SegmentRecord record = Find(written, out ulong offset);
        // ORDER: full fence between the caller's stores and the look at the bit; pairs with the exchange in DirtyBitmap.Harvest.
        Interlocked.MemoryBarrier();
        record.Bits.Mark(new PoolOffset(offset), (ulong)written.Length);
    }

    /// <summary>Reports, before a descriptor is published, that a device may write bytes from now on. (Or anybody else whose writes are seen by
    /// nobody, such as the one who rented a buffer as <see cref="Memory{T}"/>.)</summary>
    /// <param name="posted">The device-writable bytes.</param>
    /// <exception cref="ArgumentException">They are not in the pool.</exception>
    public void BeginDeviceWrite(in PinnedBuffer posted)
    {
        if (posted.Length > 0)
        {
            Find(posted, out ulong offset).Begin(offset, (ulong)posted.Length);
        }
    }

    /// <summary>Reports that a device has ended writing: its completion was read from the used ring, or its queue was reset.</summary>
    /// <param name="posted">What was reported by <see cref="BeginDeviceWrite"/>.</param>
    /// <param name="written">How many bytes from the start it wrote.</param>
    /// <exception cref="ArgumentException">They are not in the pool.</exception>
    public void EndDeviceWrite(in PinnedBuffer posted, int written)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(written);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(written, posted.Length);
        if (posted.Length > 0)
        {
            SegmentRecord record = Find(posted, out ulong offset);
            // ORDER: marked before it stops being in flight, so that a harvest in between sees the one or the other; the decrement is a
            // full fence, and the harvest takes the marks before it looks at what is in flight.
            record.Bits.Mark(new PoolOffset(offset), (ulong)written);
            record.End(offset, (ulong)posted.Length);
        }
    }

    /// <summary>Reports that a device has ended writing and nobody knows what it wrote: its queue was reset with requests in flight, or a
    /// request failed. All of it counts as written, and the record is exact no more until it is taken.</summary>
    /// <param name="posted">What was reported by <see cref="BeginDeviceWrite"/>.</param>
    /// <exception cref="ArgumentException">They are not in the pool.</exception>
    public void EndDeviceWrite(in PinnedBuffer posted)
    {
        // ORDER: full fences around the marks; pair with the exchange in DirtyBitmap.Harvest, between the look at the second number and the one
        // at the first. Who takes a mark sees that it is a guess, and who sees the second number has taken its mark. Before it stops being
        // in flight: an answer in between is a superset for that reason.
        Interlocked.Increment(ref _guesses);
        EndDeviceWrite(posted, posted.Length);
        Interlocked.Increment(ref _guessesMarked);
    }

    /// <summary>Reports that somebody writes the pool who does not report here. Answers from the own record alone are then unknown.</summary>
    /// <param name="who">Who, for people.</param>
    public void NoteForeignWriter(string who) => Volatile.Write(ref _foreign, who);

    /// <summary>Starts the kernel's tracking for this pool. The kernel tracks a whole container, from the first of its pools that wants it to
    /// the last. Doing it again does nothing.</summary>
    /// <exception cref="LinuxException">The pool has no device, or VFIO_IOMMU_DIRTY_PAGES failed.</exception>
    public void StartKernel()
    {
        lock (_lock)
        {
            if (!_kernel)
            {
                Pinner().KernelTracking.Start();
                Volatile.Write(ref _kernel, true);
            }
        }
    }

    /// <summary>Stops the kernel's tracking for this pool; it goes on for the container's other pools that want it. Doing it again does
    /// nothing.</summary>
    /// <exception cref="LinuxException">VFIO_IOMMU_DIRTY_PAGES failed.</exception>
    public void StopKernel()
    {
        lock (_lock)
        {
            if (_kernel)
            {
                Pinner().KernelTracking.Stop();
                Volatile.Write(ref _kernel, false);
            }
        }
    }

    /// <summary>Forgets all marks: what is written from now on counts.</summary>
    public void Restart()
    {
        lock (_lock)
        {
            EndChain();
            _mixed = false;
            long guesses = Volatile.Read(ref _guessesMarked);
            foreach (SegmentRecord record in Records)
            {
                record.Bits.Harvest(new ulong[record.Bits.Words]);
            }

            _guessesTaken = guesses;
        }
    }

    /// <summary>The dirty pages, which stay marked.</summary>
    /// <returns>The answer, of the own record.</returns>
    public DirtyAnswer Peek()
    {
        lock (_lock)
        {
            return Answer(Collect(take: false, out ulong inFlight), DirtySources.OwnRecord, inFlight);
        }
    }

    /// <summary>The dirty pages, which stay marked, with another source asked too. The kernel clears what it tells, so that goes into the record.</summary>
    /// <param name="sources">Who shall tell.</param>
    /// <returns>The answer.</returns>
    /// <exception cref="LinuxException">VFIO_IOMMU_DIRTY_PAGES failed; no mark is lost.</exception>
    public DirtyAnswer Peek(DirtySources sources)
    {
        // In one step: an export in between would take a record from which these pages are missing.
        lock (_lock)
        {
            DirtyAnswer answer = Harvest(sources);
            PutBack(answer);
            return answer;
        }
    }

    /// <summary>Takes the dirty pages: they are clean afterwards, except those that a device may be writing.</summary>
    /// <param name="sources">Who shall tell. The kernel knows only what devices write, so its answer always has the own record in it.</param>
    /// <returns>The answer.</returns>
    /// <exception cref="LinuxException">VFIO_IOMMU_DIRTY_PAGES failed; no mark is lost.</exception>
    public DirtyAnswer Harvest(DirtySources sources = DirtySources.OwnRecord)
    {
        lock (_lock)
        {
            long guesses = Volatile.Read(ref _guessesMarked);
            List<ulong[]> taken = Collect(take: true, out ulong inFlight);
            try
            {
                if ((sources & DirtySources.Kernel) != 0)
                {
                    AddKernel(taken);
                }

                DirtyAnswer answer = Answer(taken, sources | DirtySources.OwnRecord, inFlight);
                // Pages in flight were marked again, and the device may end without having written them.
                _mixed = inFlight > 0;
                _guessesTaken = guesses;
                return answer;
            }
            catch
            {
                // What the kernel told before it failed is only perhaps written.
                _mixed |= (sources & DirtySources.Kernel) != 0;
                PutBack(taken);
                throw;
            }
        }
    }

    /// <summary>Marks the pages of an answer again, because they could not be used.</summary>
    /// <param name="answer">The answer.</param>
    public void PutBack(DirtyAnswer answer)
    {
        ArgumentNullException.ThrowIfNull(answer);
        lock (_lock)
        {
            // Pages that were only perhaps written are in the record from now on, which therefore is exact no more until it is taken.
            _mixed |= answer.Precision != DirtyPrecision.Exact;
            foreach (DirtyRange range in answer.Ranges())
            {
                Mark(range.First, range.Length);
            }
        }
    }

    /// <summary>Marks pages by their place in the pool.</summary>
    internal void Mark(PoolOffset first, ulong length)
    {
        ulong end = first.Value + length;
        // ORDER: as in Written.
        Interlocked.MemoryBarrier();
        foreach (SegmentRecord record in Records)
        {
            ulong start = Math.Max(first.Value, record.Segment.Offset.Value);
            ulong stop = Math.Min(end, record.Segment.Offset.Value + record.Segment.Length);
            if (start < stop)
            {
                record.Bits.Mark(new PoolOffset(start - record.Segment.Offset.Value), stop - start);
            }
        }
    }

    internal void Add(PoolSegment segment)
    {
        lock (_lock)
        {
            Volatile.Write(ref _records, [.. _records, new SegmentRecord(segment)]);
        }
    }

    /// <summary>Maps of a segment are gone, which stays in the pool if those before them could not be unmapped: what the kernel knew of them is
    /// in the record from now on. Of a pool that did not have the kernel track it, that is a neighbour's answer.</summary>
    internal void Unmapped(PoolSegment segment, IReadOnlyList<UnmappedMemory> unmapped)
    {
        lock (_lock)
        {
            foreach (UnmappedMemory memory in _kernel ? unmapped : [])
            {
                _mixed = true;
                foreach (DirtyRange range in memory.Dirty.Ranges())
                {
                    Mark(new PoolOffset(segment.Offset.Value + (memory.Mapping.Host.First - segment.Address) + range.First.Value), range.Length);
                }
            }
        }
    }

    /// <summary>The pool lost its end, a whole segment or part of one. What grows there later starts from zero, which a chain of exports
    /// cannot tell, so the chain ends.</summary>
    internal void Shrunk(PoolSegment segment, bool whole)
    {
        lock (_lock)
        {
            EndChain();
            if (whole)
            {
                Volatile.Write(ref _records, [.. _records.Where(r => r.Segment != segment)]);
            }
        }
    }

    /// <summary>An export is written: the record counts from it, unless marks were dropped since it was begun.</summary>
    internal void Exported(PoolExportHeader header, long generation)
    {
        lock (_lock)
        {
            LastExport = generation == _generation ? header : null;
        }
    }

    // The lock is held.
    private void EndChain()
    {
        LastExport = null;
        Interlocked.Increment(ref _generation);
    }

    // ORDER: acquire; pairs with the releases in Add and Shrunk.
    private SegmentRecord[] Records => Volatile.Read(ref _records);

    private Pinner Pinner() => _pool.Pinner
        ?? throw new LinuxException("VFIO_IOMMU_DIRTY_PAGES", Errno.ENODEV, $"pool {_pool.Name}", "the pool has no device", "use the pool's own record");

    private SegmentRecord Find(in PinnedBuffer buffer, out ulong offset)
    {
        foreach (SegmentRecord record in Records)
        {
            offset = unchecked(buffer.Address.Value - record.Address.Value);
            if (offset < record.Bits.Length && (ulong)buffer.Length <= record.Bits.Length - offset)
            {
                return record;
            }
        }

        throw new ArgumentException($"{buffer.Address} ({buffer.Length} bytes) is not in pool {_pool.Name}", nameof(buffer));
    }

    // For each segment, in order, the words of its bits.
    private List<ulong[]> Collect(bool take, out ulong inFlight)
    {
        SegmentRecord[] records = Records;
        // All memory first: marks that were taken must not be lost for want of more.
        var all = new List<ulong[]>(records.Length);
        foreach (SegmentRecord record in records)
        {
            all.Add(new ulong[record.Bits.Words]);
        }

        inFlight = 0;
        for (int i = 0; i < records.Length; i++)
        {
            SegmentRecord record = records[i];
            ulong[] words = all[i];
            if (take)
            {
                record.Bits.Harvest(words);
            }
            else
            {
                record.Bits.Peek(words);
            }

            inFlight += record.AddInFlight(words, mark: take);
        }

        return all;
    }

    private void PutBack(List<ulong[]> taken)
    {
        SegmentRecord[] records = Records;
        for (int i = 0; i < records.Length; i++)
        {
            records[i].Bits.Merge(taken[i]);
        }
    }

    private void AddKernel(List<ulong[]> all)
    {
        Type1Iommu iommu = Pinner().Iommu;
        if (!_kernel)
        {
            // A neighbour may have the container tracked, but what was written before it began is not in that answer.
            throw VfioFailures.Exception("VFIO_IOMMU_DIRTY_PAGES", Errno.EINVAL, $"pool {_pool.Name}");
        }

        ulong pageSize = iommu.DirtyTracking?.PageSize ?? DirtyBitmap.PageSize;
        SegmentRecord[] records = Records;
        for (int i = 0; i < records.Length; i++)
        {
            foreach (DmaMapping mapping in records[i].Segment.Mappings)
            {
                // Mapping by mapping: the kernel clears what it tells, and what lies between two mappings is another pool's.
                ulong[] words = new ulong[(mapping.Iova.Length / pageSize + 63) / 64];
                iommu.GetDirtyBitmap(mapping.Iova, words);
                ulong start = mapping.Host.First - records[i].Address;
                KernelBits.Add(words, pageSize / DirtyBitmap.PageSize, all[i], start / DirtyBitmap.PageSize);
            }
        }
    }

    private DirtyAnswer Answer(List<ulong[]> all, DirtySources sources, ulong inFlight)
    {
        SegmentRecord[] records = Records;
        // Not the pool's own length: a segment is in the record before it is in the pool.
        ulong length = 0;
        foreach (SegmentRecord record in records)
        {
            length += record.Segment.Length;
        }

        ulong[] words = new ulong[length == 0 ? 0 : DirtyBitmap.WordsFor(length)];
        ulong pages = length / DirtyBitmap.PageSize;
        if (ForeignWriter is not null)
        {
            if (pages > 0)
            {
                BitRange.Set(words, 0, pages);
            }

            return new DirtyAnswer(length, words, DirtyPrecision.Unknown, sources, inFlight);
        }

        for (int i = 0; i < records.Length; i++)
        {
            ulong at = records[i].Segment.Offset.Value / DirtyBitmap.PageSize;
            foreach (DirtyRange range in new DirtyAnswer(0, all[i], DirtyPrecision.Exact, sources, 0).Ranges())
            {
                // A segment that was cut short has bits beyond its end.
                ulong first = at + (range.First.Value / DirtyBitmap.PageSize);
                ulong end = Math.Min(at + (records[i].Segment.Length / DirtyBitmap.PageSize), first + (range.Length / DirtyBitmap.PageSize));
                if (first < end)
                {
                    BitRange.Set(words, first, end - first);
                }
            }
        }

        bool exact = (sources & DirtySources.Kernel) == 0 && inFlight == 0 && !_mixed && Volatile.Read(ref _guesses) == _guessesTaken;
        return new DirtyAnswer(length, words, exact ? DirtyPrecision.Exact : DirtyPrecision.Superset, sources, inFlight);
    }
}
