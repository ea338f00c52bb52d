using System.Diagnostics.CodeAnalysis;
using Vfio.Linux;

namespace Vfio;

/// <summary>Pinned memory that is lent out: buffers of one size, and larger pieces for rings. It is made of segments, which it grows and shrinks by.</summary>
/// <remarks>
/// <para>Renting and returning are thread-safe, take no lock while free buffers are at hand, and allocate nothing; everything else is
/// thread-safe behind locks.</para>
/// <para>A pool may have no device: then nothing is pinned, and buffers carry IOVAs of the upper half of the address space, which no IOMMU has,
/// so that a device that is given one by mistake faults.</para>
/// <para>Ownership is by renting: what is rented or allocated is never unmapped, so a queue that returns its buffers only after it was
/// reset keeps every device away from memory that is gone. Order at the end: stop the queue, return, destroy the pool, close the device.
/// So an unmap waits for nobody's <see cref="GracePeriod"/>: it is refused (EBUSY) while a thread may hold a buffer, and who returns what
/// another thread polled with waits for one first.</para>
/// </remarks>
public sealed class PinnedPool : IDisposable
{
    private const ulong NoDevice = 1ul << 63;

    private readonly PinnedPoolOptions _options;
    private readonly Pinner? _pinner;
    private readonly Sysfs _sysfs;
    private readonly PoolLender _lender;
    // Held by one who makes or ends segments, which may take long.
    private readonly Lock _change = new();
    private bool _destroyed;

    private PinnedPool(PinnedPoolOptions options, Pinner? pinner, Sysfs sysfs)
    {
        _options = options;
        _pinner = pinner;
        _sysfs = sysfs;
        _lender = new PoolLender(options.Name, options.BufferSize, options.Checked);
        Dirty = options.TrackDirty ? new DirtyTracker(this) : null;
    }

    /// <summary>The pool's name.</summary>
    public string Name => _options.Name;

    /// <summary>Bytes of a rented buffer.</summary>
    public int BufferSize => _options.BufferSize;

    /// <summary>What pins it, or null for a pool with no device.</summary>
    public Pinner? Pinner => _pinner;

    /// <summary>The record of written pages, or null for a pool that keeps none.</summary>
    public DirtyTracker? Dirty { get; }

    /// <summary>Its segments, in the order of their offsets.</summary>
    public IReadOnlyList<PoolSegment> Segments => _lender.Segments;

    /// <summary>Bytes in all.</summary>
    public ulong Length
    {
        get
        {
            ulong sum = 0;
            foreach (PoolSegment segment in Segments)
            {
                sum += segment.Length;
            }

            return sum;
        }
    }

    /// <summary>Bytes that are pinned for a device: all, or none with no device.</summary>
    public ulong PinnedBytes
    {
        get
        {
            ulong sum = 0;
            foreach (PoolSegment segment in Segments)
            {
                foreach (DmaMapping mapping in segment.Mappings)
                {
                    sum += mapping.Iova.Length;
                }
            }

            return sum;
        }
    }

    /// <summary>Calls of VFIO_IOMMU_MAP_DMA that made its segments, those that were given back included.</summary>
    public long MapCalls { get; private set; }

    /// <summary>Entries of the container's limit that it uses.</summary>
    public int EntriesUsed
    {
        get
        {
            int sum = 0;
            foreach (PoolSegment segment in Segments)
            {
                sum += segment.Mappings.Count;
            }

            return sum;
        }
    }

    /// <summary>Makes a pool: plans it, makes and populates the memory, and pins it. When any step fails, nothing is left of it.</summary>
    /// <param name="options">What it shall be like.</param>
    /// <param name="pinner">The pinner of the container whose devices shall reach it, or null for none.</param>
    /// <param name="sysfs">Where <c>/sys</c> and <c>/proc</c> are; the real ones by default.</param>
    /// <returns>The pool.</returns>
    /// <exception cref="LinuxException">A limit stands against it (nothing was touched), or a call failed (everything was undone).</exception>
    [SuppressMessage("Reliability", "CA2000:Dispose objects before losing scope", Justification = "returned, or destroyed when growing throws")]
    public static PinnedPool Create(PinnedPoolOptions options, Pinner? pinner = null, Sysfs? sysfs = null)
    {
        ArgumentNullException.ThrowIfNull(options);
        var pool = new PinnedPool(options, pinner, sysfs ?? new Sysfs());
        pool.Grow(options.Size);
        return pool;
    }

    /// <summary>Adds a segment.</summary>
    /// <param name="bytes">Bytes to add, a multiple of the page size.</param>
    /// <param name="progress">Told how far populating is, in place of <see cref="PinnedPoolOptions.Progress"/>; that one for null.</param>
    /// <param name="populateThreads">Threads that populate it, in place of <see cref="PinnedPoolOptions.PopulateThreads"/>; as many for null.</param>
    /// <exception cref="LinuxException">A limit stands against it (nothing was touched), or a call failed (everything was undone).</exception>
    /// <exception cref="ObjectDisposedException">The pool was destroyed.</exception>
    public void Grow(ulong bytes, IProgress<PopulateProgress>? progress = null, int? populateThreads = null)
    {
        lock (_change)
        {
            ObjectDisposedException.ThrowIf(_destroyed, this);
            PinnedPoolOptions options = _options with
            {
                Size = bytes,
                Progress = progress ?? _options.Progress,
                PopulateThreads = populateThreads ?? _options.PopulateThreads,
            };
            PoolPlan plan = _pinner is null ? PoolPlan.For(options, (PinLimits?)null, _sysfs) : PoolPlan.For(options, _pinner, _sysfs);
            plan.ThrowIfImpossible($"pool {Name} of {ByteSize.Text(bytes)}");
            PoolSegment segment = MakeSegment(options, plan.Backing);
            int maps = segment.Mappings.Count;
            try
            {
                // Both keep something for each buffer or page, for which there may be no memory.
                Dirty?.Add(segment);
                _lender.Add(segment);
            }
            catch (Exception e)
            {
                LinuxException? kept = Discard(segment.Memory, segment.Registered, e);
                Dirty?.Shrunk(segment, whole: true);
                if (kept is not null)
                {
                    throw kept;
                }

                throw;
            }

            MapCalls += maps;
        }
    }

    /// <summary>Takes memory off the end of the pool and gives it back to the system.</summary>
    /// <param name="bytes">Bytes to take off. Whole segments, or whole maps of the last segment: see <see cref="PinnedPoolOptions.Grain"/>.</param>
    /// <exception cref="LinuxException">Part of it is in use, or pinned by others too, or is not whole maps; nothing changed. Or unmapping failed; what follows that is
    /// still whole.</exception>
    /// <exception cref="ObjectDisposedException">The pool was destroyed.</exception>
    public void Shrink(ulong bytes)
    {
        lock (_change)
        {
            ObjectDisposedException.ThrowIf(_destroyed, this);
            if (bytes >= Length || bytes == 0)
            {
                throw new LinuxException("pool shrink", Errno.EINVAL, $"{Name}: {ByteSize.Text(bytes)} of {ByteSize.Text(Length)}",
                    "a pool keeps at least one map, and shrinks by at least one", "ask for less, or destroy the pool");
            }

            ulong keep = Length - bytes;
            CheckCut(keep);
            CheckReferences(keep, "pool shrink");
            _lender.Withdraw(keep, "pool shrink");
            while (Length > keep)
            {
                PoolSegment last = _lender.Segments[^1];
                Unpin(last, last.StayOf(keep));
            }
        }
    }

    /// <summary>Rents a buffer.</summary>
    /// <param name="buffer">The buffer. It holds what was last in it.</param>
    /// <returns>False when all are out. (While another thread moves free buffers between its stack and the overflow, those count as out.)</returns>
    public bool TryRent(out PinnedBuffer buffer) => _lender.TryRent(out buffer);

    /// <summary>Rents a buffer.</summary>
    /// <returns>The buffer. It holds what was last in it.</returns>
    /// <exception cref="LinuxException">All are out.</exception>
    public PinnedBuffer Rent() => TryRent(out PinnedBuffer buffer)
        ? buffer
        : throw new LinuxException("pool", Errno.ENOMEM, $"{Name}: a buffer of {BufferSize} bytes", "all memory of the pool is rented or allocated",
            "return buffers, or vfiopin pool grow");

    /// <summary>Returns a rented buffer. No device may be able to write it any more.</summary>
    /// <param name="buffer">The buffer, whole, as it was rented.</param>
    /// <exception cref="ArgumentException">It is not a buffer of this pool.</exception>
    /// <exception cref="LinuxException">With <see cref="PinnedPoolOptions.Checked"/>: it is not rented.</exception>
    public void Return(in PinnedBuffer buffer)
    {
        if (!_lender.TryReturn(buffer))
        {
            throw new ArgumentException($"{buffer.Address} ({buffer.Length} bytes) is no buffer of pool {Name}", nameof(buffer));
        }

        if (_lender.IsChecked)
        {
            // It was filled with a pattern.
            Dirty?.Written(buffer);
        }
    }

    /// <summary>Allocates a larger piece, for rings and tables, in whole pages of 4 KiB that nothing else shares.</summary>
    /// <param name="length">Bytes, at least 1.</param>
    /// <returns>The piece, contiguous for this process and the device, aligned to 4 KiB. It holds what was last in it.</returns>
    /// <exception cref="LinuxException">No free piece is large enough.</exception>
    public PinnedBuffer Allocate(int length)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(length);
        return _lender.Allocate(length);
    }

    /// <summary>Gives back what <see cref="Allocate"/> gave. No device may be able to reach it any more.</summary>
    /// <param name="piece">The piece.</param>
    /// <exception cref="ArgumentException">It is not allocated from this pool.</exception>
    public void Free(in PinnedBuffer piece)
    {
        if (!_lender.TryFree(piece.Address))
        {
            throw new ArgumentException($"{piece.Address} is not allocated from pool {Name}", nameof(piece));
        }
    }

    /// <summary>What is lent out at this moment.</summary>
    /// <returns>Rented buffers and allocated pieces. Exact while nobody rents or returns.</returns>
    public PoolUse Use() => _lender.Use();

    /// <summary>Unpins the pool and gives its memory back to the system.</summary>
    /// <exception cref="LinuxException">Buffers or pieces are lent out, or memory of the pool is pinned by others too (EBUSY), or the kernel's
    /// dirty tracking could not be stopped: nothing changed. Or unmapping failed: what is left can be destroyed again later.</exception>
    public void Destroy()
    {
        lock (_change)
        {
            if (_destroyed)
            {
                return;
            }

            CheckReferences(0, "pool destroy");
            // What it knows is lost then, so not for a pool that is going to stay; and before anything is out of service, as it may fail.
            _lender.DemandFree(0, "pool destroy");
            Dirty?.StopKernel();
            _lender.Withdraw(0, "pool destroy");
            while (_lender.Segments is [.., var last])
            {
                Unpin(last, 0);
            }

            _destroyed = true;
        }
    }

    /// <summary><see cref="Destroy"/>.</summary>
    /// <exception cref="LinuxException">As there.</exception>
    public void Dispose() => Destroy();

    private PoolSegment MakeSegment(PinnedPoolOptions options, MemoryBacking backing)
    {
        ulong bytes = options.Size;
        PoolMemory memory = PoolMemory.Create(Name, bytes, backing, options.Grain, options.Node, _sysfs);
        RegisteredMemory? registered = null;
        try
        {
            var range = new PinRange(HostRange.Of(memory.Address, bytes), DmaAccess.ReadWrite, backing);
            IReadOnlyList<PopulateFailure> failed = Populator.Run([range], options.PopulateThreads, options.Progress);
            if (failed.Count > 0)
            {
                string others = failed.Count == 1 ? string.Empty : $", and {failed.Count - 1} more pieces: {string.Join("; ", failed.Skip(1).Take(4))}";
                throw new LinuxException(
                    "madvise(MADV_POPULATE_WRITE)", failed[0].Errno, $"pool {Name}, {failed[0].Host}{others}", failed[0].Cause, failed[0].Cure);
            }

            var segment = new PoolSegment(memory, backing, new PoolOffset(Length), PoolPlacement.Read(memory.Address, _sysfs));
            registered = _pinner?.Register([range], new PinOptions { Grain = options.Grain, Contiguous = true, Populate = false });
            segment.Registered = registered;
            segment.Iova = registered?.Mappings[0].Iova.First ?? new Iova(NoDevice + memory.Address.Value);
            return segment;
        }
        catch (Exception e)
        {
            if (Discard(memory, registered, e) is { } kept)
            {
                throw kept;
            }

            throw;
        }
    }

    // Gives back what was to be a segment. Memory that cannot be unpinned stays mapped, and what comes back says so.
    private LinuxException? Discard(PoolMemory memory, RegisteredMemory? registered, Exception failure)
    {
        LinuxException? stuck = failure as LinuxException;
        try
        {
            registered?.Dispose();
        }
        catch (LinuxException e)
        {
            stuck = e;
        }

        if (_pinner is null)
        {
            memory.Dispose();
            return null;
        }

        return _pinner.FreeOrKeep(memory)
            ? null
            : new LinuxException(
                stuck?.Call ?? "pool", stuck?.Errno ?? Errno.EIO,
                $"{stuck?.Detail ?? failure.Message}; {ByteSize.Text(memory.Length)} of pool {Name} could not be unpinned and stay mapped, in reach of its devices",
                stuck?.Cause, $"{(stuck?.Cure is { } cure ? cure + "; " : string.Empty)}to get that memory back, end this process (vfiopin daemon)");
    }

    // A cut goes between maps: VFIO_IOMMU_UNMAP_DMA must not bisect one.
    private void CheckCut(ulong keep)
    {
        PoolSegment cut = Array.Find(_lender.Segments, s => s.Offset.Value < keep && keep <= s.Offset.Value + s.Length)!;
        ulong stay = keep - cut.Offset.Value;
        bool whole = cut.Mappings.Count == 0
            ? stay % cut.Backing.PageSize() == 0
            : cut.Mappings.Any(m => m.Host.Last - cut.Address + 1 == stay);
        if (!whole || stay % cut.Backing.PageSize() != 0)
        {
            // A pool of one map has no place where it can be cut.
            ulong last = LastCut(keep);
            string by = last == 0 ? string.Empty : $"shrink by {ByteSize.Text(Length - last)}, ";
            throw new LinuxException("pool shrink", Errno.EINVAL, $"{Name}: to {ByteSize.Text(keep)}",
                "the cut would go through a map or a page, which can only be freed whole",
                $"{by}shrink by whole segments (vfiopin pool show lists them), or make the pool with --grain");
        }
    }

    // The last place before so many bytes where it can be cut.
    private ulong LastCut(ulong keep)
    {
        ulong last = 0;
        foreach (PoolSegment segment in _lender.Segments)
        {
            foreach (DmaMapping mapping in segment.Mappings)
            {
                ulong end = segment.Offset.Value + (mapping.Host.Last - segment.Address + 1);
                last = end <= keep && end % segment.Backing.PageSize() == 0 ? Math.Max(last, end) : last;
            }

            last = segment.Offset.Value <= keep ? Math.Max(last, segment.Offset.Value) : last;
        }

        return last;
    }

    // Who pinned memory of the pool by himself has the devices reach it still, after the pool has let go.
    private void CheckReferences(ulong keep, string call)
    {
        foreach (PoolSegment segment in _lender.Segments)
        {
            ulong stay = segment.StayOf(keep);
            if (stay < segment.Length && _pinner?.FirstShared(HostRange.Of(segment.Address + stay, segment.Length - stay)) is { } shared)
            {
                throw new LinuxException(call, Errno.EBUSY, $"{Name}, {shared}",
                    "that memory of the pool was pinned another time, by Register or PinPage", "release it first");
            }
        }
    }

    // Unmaps, then gives the memory back. What was withdrawn stays withdrawn if unmapping fails: a device may still reach it.
    private void Unpin(PoolSegment segment, ulong stay)
    {
        try
        {
            segment.Registered?.ReleaseFrom(segment.Address + stay, wantsDirty: Dirty is { KernelIsTracking: true });
        }
        catch
        {
            Dirty?.Unmapped(segment, segment.Registered?.TakeUnmapped() ?? []);
            throw;
        }

        // What the kernel knew of memory that is no more is of no use.
        _ = segment.Registered?.TakeUnmapped();
        Dirty?.Shrunk(segment, whole: stay == 0);
        if (stay == 0)
        {
            _lender.RemoveLast();
            segment.Memory.Dispose();
        }
        else
        {
            segment.Memory.Truncate(stay);
            segment.Slots!.Truncate(stay);
        }
    }
}
