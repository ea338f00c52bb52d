using System.Diagnostics.CodeAnalysis;
using System.Globalization;
using Vfio.Linux;

namespace Vfio;

/// <summary>Pinned memory that is lent out: buffers of one size, and larger pieces for rings. It is made of segments, which it grows and shrinks by.</summary>
/// <remarks>
/// <para>Renting and returning are thread-safe, take no lock while free buffers are at hand, and allocate nothing; everything else is
/// thread-safe behind locks.</para>
/// <para>A pool may have no device: then nothing is pinned, and buffers carry IOVAs of the upper half of the address space, which no IOMMU has,
/// so that a device that is given one by mistake faults.</para>
/// <para>Ownership is by renting: what is rented or allocated is never unmapped, so a queue that returns its buffers only after it was
/// reset keeps every device away from memory that is gone. Order at the end: stop the queue, return, destroy the pool, close the device.</para>
/// </remarks>
public sealed class PinnedPool : IDisposable
{
    private const ulong Page = 4096;
    private const ulong NoDevice = 1ul << 63;

    private readonly PinnedPoolOptions _options;
    private readonly Pinner? _pinner;
    private readonly Sysfs _sysfs;
    private readonly BufferStacks _stacks = new();
    private readonly BufferLedger? _ledger;
    // One who makes or ends segments holds _change, which may be long; _lock covers the segments' free ranges and is short.
    private readonly Lock _change = new();
    private readonly Lock _lock = new();
    private readonly Dictionary<HostAddress, ulong> _allocated = [];
    private PoolSegment[] _segments = [];
    private bool _destroyed;

    private PinnedPool(PinnedPoolOptions options, Pinner? pinner, Sysfs sysfs)
    {
        _options = options;
        _pinner = pinner;
        _sysfs = sysfs;
        _ledger = options.Checked ? new BufferLedger(options.Name) : null;
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
    public IReadOnlyList<PoolSegment> Segments => Volatile.Read(ref _segments);

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
    /// <exception cref="LinuxException">A limit stands against it (nothing was touched), or a call failed (everything was undone).</exception>
    /// <exception cref="ObjectDisposedException">The pool was destroyed.</exception>
    public void Grow(ulong bytes)
    {
        lock (_change)
        {
            ObjectDisposedException.ThrowIf(_destroyed, this);
            PinnedPoolOptions options = _options with { Size = bytes };
            PoolPlan plan = _pinner is null ? PoolPlan.For(options, (PinLimits?)null, _sysfs) : PoolPlan.For(options, _pinner, _sysfs);
            plan.ThrowIfImpossible($"pool {Name} of {ByteSize.Text(bytes)}");
            PoolSegment segment = MakeSegment(bytes, plan.Backing);
            lock (_lock)
            {
                BufferSlots[] slots = _stacks.Slots;
                uint first = slots.Length == 0 ? 0 : checked(slots[^1].First + slots[^1].Count);
                segment.Slots = new BufferSlots(first, segment.Address, segment.Iova, bytes, BufferSize);
                Dirty?.Add(segment);
                Volatile.Write(ref _segments, [.. _segments, segment]);
                _stacks.Slots = [.. slots, segment.Slots];
                MapCalls += segment.Mappings.Count;
            }
        }
    }

    /// <summary>Takes memory off the end of the pool and gives it back to the system.</summary>
    /// <param name="bytes">Bytes to take off. Whole segments, or whole maps of the last segment: see <see cref="PinnedPoolOptions.Grain"/>.</param>
    /// <exception cref="LinuxException">Part of it is in use, or is not whole maps; nothing changed. Or unmapping failed; what follows that is
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
            while (Length > keep)
            {
                PoolSegment last = _segments[^1];
                ulong stay = last.Offset.Value >= keep ? 0 : keep - last.Offset.Value;
                Withdraw(last, stay);
                Unpin(last, stay);
            }
        }
    }

    /// <summary>Rents a buffer.</summary>
    /// <param name="buffer">The buffer. It holds what was last in it.</param>
    /// <returns>False when all are out. (While another thread moves free buffers between its stack and the overflow, those count as out.)</returns>
    public bool TryRent(out PinnedBuffer buffer)
    {
        if (!_stacks.TryPop(out uint index) && !TryCut(out index))
        {
            buffer = default;
            return false;
        }

        buffer = _stacks.Find(index)!.Buffer(index);
        _ledger?.Rented(buffer);
        return true;
    }

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
        BufferSlots? slots = _stacks.Find(buffer.Address);
        ulong offset = slots is null ? 0 : buffer.Address - slots.Address;
        if (slots is null || buffer.Length != BufferSize || (offset & (ulong)(BufferSize - 1)) != 0)
        {
            throw new ArgumentException($"{buffer.Address} ({buffer.Length} bytes) is no buffer of pool {Name}", nameof(buffer));
        }

        if (_ledger is not null)
        {
            _ledger.Returned(buffer);
            // It was filled with the ledger's pattern.
            Dirty?.Written(buffer);
        }

        _stacks.Push(slots, slots.IndexAt(offset));
    }

    /// <summary>Allocates a larger piece, for rings and tables, in whole pages of 4 KiB that nothing else shares.</summary>
    /// <param name="length">Bytes, at least 1.</param>
    /// <returns>The piece, contiguous for this process and the device, aligned to 4 KiB. It holds what was last in it.</returns>
    /// <exception cref="LinuxException">No free piece is large enough.</exception>
    public PinnedBuffer Allocate(int length)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(length);
        ulong whole = ((ulong)length + Page - 1) & ~(Page - 1);
        lock (_lock)
        {
            if (!TryTake(whole, out PoolSegment? segment, out ulong offset))
            {
                // Free buffers may be in the way.
                Reclaim();
                if (!TryTake(whole, out segment, out offset))
                {
                    throw new LinuxException("pool", Errno.ENOMEM, $"{Name}: {ByteSize.Text(whole)} in one piece",
                        "no free piece of the pool is large enough", "return buffers, or vfiopin pool grow");
                }
            }

            var piece = new PinnedBuffer(new Iova(segment.Iova.Value + offset), segment.Address + offset, length);
            _allocated.Add(piece.Address, whole);
            return piece;
        }
    }

    /// <summary>Gives back what <see cref="Allocate"/> gave. No device may be able to reach it any more.</summary>
    /// <param name="piece">The piece.</param>
    /// <exception cref="ArgumentException">It is not allocated from this pool.</exception>
    public void Free(in PinnedBuffer piece)
    {
        lock (_lock)
        {
            if (!_allocated.Remove(piece.Address, out ulong whole))
            {
                throw new ArgumentException($"{piece.Address} is not allocated from pool {Name}", nameof(piece));
            }

            HostAddress address = piece.Address;
            PoolSegment segment = Array.Find(_segments, s => HostRange.Of(s.Address, s.Length).Contains(address))!;
            ulong offset = address - segment.Address;
            segment.Free.Give(offset, offset + whole - 1);
        }
    }

    /// <summary>What is lent out at this moment.</summary>
    /// <returns>Rented buffers and allocated pieces. Exact while nobody rents or returns.</returns>
    public PoolUse Use()
    {
        lock (_lock)
        {
            Reclaim();
            return UseOf(_segments, 0);
        }
    }

    /// <summary>Unpins the pool and gives its memory back to the system.</summary>
    /// <exception cref="LinuxException">Buffers or pieces are lent out (EBUSY): nothing changed. Or unmapping failed: what is left can be
    /// destroyed again later.</exception>
    public void Destroy()
    {
        lock (_change)
        {
            if (_destroyed)
            {
                return;
            }

            lock (_lock)
            {
                Reclaim();
                ThrowIfUsed(UseOf(_segments, 0), "pool destroy");
                foreach (PoolSegment segment in _segments)
                {
                    segment.Withdraw(0);
                }
            }

            while (_segments.Length > 0)
            {
                Unpin(_segments[^1], 0);
            }

            _destroyed = true;
        }
    }

    /// <summary><see cref="Destroy"/>.</summary>
    /// <exception cref="LinuxException">As there.</exception>
    public void Dispose() => Destroy();

    private PoolSegment MakeSegment(ulong bytes, MemoryBacking backing)
    {
        PoolMemory memory = PoolMemory.Create(Name, bytes, backing, _options.Node, _sysfs);
        try
        {
            var range = new PinRange(HostRange.Of(memory.Address, bytes), DmaAccess.ReadWrite, backing);
            IReadOnlyList<PinFailure> failed = Populator.Run([range], _options.PopulateThreads, _options.Progress);
            if (failed.Count > 0)
            {
                throw new LinuxException("madvise(MADV_POPULATE_WRITE)", failed[0].Errno, $"pool {Name}, {failed[0].Host}", failed[0].Cause, failed[0].Cure);
            }

            var segment = new PoolSegment(memory, backing, new PoolOffset(Length), PoolPlacement.Read(memory.Address, _sysfs));
            RegisteredMemory? registered = _pinner?.Register([range], new PinOptions { Grain = _options.Grain, Contiguous = true, Populate = false });
            segment.Registered = registered;
            segment.Iova = registered?.Mappings[0].Iova.First ?? new Iova(NoDevice + memory.Address.Value);
            return segment;
        }
        catch
        {
            memory.Dispose();
            throw;
        }
    }

    // Cuts buffers out of free memory: as many as a thread's stack holds, so that the lock is met once in so many.
    private bool TryCut(out uint index)
    {
        ulong size = (ulong)BufferSize;
        lock (_lock)
        {
            // Another thread may have cut, or put back what it had drained, while this one waited for the lock.
            if (_stacks.TryPop(out index))
            {
                return true;
            }

            for (ulong count = BufferStacks.Most; count > 0; count /= 2)
            {
                foreach (PoolSegment segment in _segments)
                {
                    if (segment.Slots is { } slots && segment.Free.TryTake(count * size, size, 0, fromTop: false, out ulong offset))
                    {
                        index = slots.IndexAt(offset);
                        if (count > 1)
                        {
                            _stacks.PushRun(slots, index + 1, (uint)count - 1);
                        }

                        return true;
                    }
                }
            }

            index = 0;
            return false;
        }
    }

    // From the top, so that buffers and pieces grow towards each other. The lock is held.
    private bool TryTake(ulong whole, [NotNullWhen(true)] out PoolSegment? found, out ulong offset)
    {
        foreach (PoolSegment segment in _segments)
        {
            if (segment.Free.TryTake(whole, Page, 0, fromTop: true, out offset))
            {
                found = segment;
                return true;
            }
        }

        (found, offset) = (null, 0);
        return false;
    }

    // Takes every free buffer back into the segments' free ranges, so that they tell exactly what is lent out. The lock is held.
    private void Reclaim()
    {
        var free = new List<uint>();
        _stacks.Drain(free);
        free.Sort();
        for (int i = 0; i < free.Count;)
        {
            int segment = Array.FindIndex(_segments, s => s.Slots!.Holds(free[i]));
            BufferSlots slots = _segments[segment].Slots!;
            int end = i + 1;
            while (end < free.Count && free[end] == free[end - 1] + 1 && slots.Holds(free[end]))
            {
                end++;
            }

            _segments[segment].Free.Give(slots.OffsetOf(free[i]), slots.OffsetOf(free[end - 1]) + (ulong)BufferSize - 1);
            if (_ledger is not null)
            {
                for (int b = i; b < end; b++)
                {
                    _ledger.Forget(slots.Buffer(free[b]).Address);
                }
            }

            i = end;
        }
    }

    private PoolUse UseOf(IReadOnlyList<PoolSegment> segments, ulong from)
    {
        ulong used = 0;
        ulong allocated = 0;
        int pieces = 0;
        foreach (PoolSegment segment in segments)
        {
            ulong next = from;
            foreach (FreeRanges.Free free in segment.Free.All)
            {
                if (free.Last >= from)
                {
                    used += Math.Max(free.First, next) - next;
                    next = free.Last + 1;
                }
            }

            used += segment.InService - Math.Min(next, segment.InService);
            foreach ((HostAddress address, ulong length) in _allocated)
            {
                if (address >= segment.Address && address - segment.Address is var offset && offset < segment.Length && offset + length > from)
                {
                    allocated += length - (offset < from ? from - offset : 0);
                    pieces++;
                }
            }
        }

        return new PoolUse((long)((used - allocated) / (ulong)BufferSize), pieces, used, _ledger?.Renters ?? []);
    }

    private void ThrowIfUsed(PoolUse use, string call)
    {
        if (use.Bytes > 0)
        {
            string who = use.Renters.Count > 0 ? $"; {string.Join("; ", use.Renters.Take(4))}" : string.Empty;
            throw new LinuxException(call, Errno.EBUSY,
                string.Create(CultureInfo.InvariantCulture, $"{Name}: {use.Buffers} buffers and {use.Pieces} pieces are lent out{who}"),
                "a device or a caller may still use them", "stop the queues that use the pool first");
        }
    }

    // A cut goes between maps: VFIO_IOMMU_UNMAP_DMA must not bisect one.
    private void CheckCut(ulong keep)
    {
        PoolSegment cut = Array.Find(_segments, s => s.Offset.Value < keep && keep <= s.Offset.Value + s.Length)!;
        ulong stay = keep - cut.Offset.Value;
        bool whole = cut.Mappings.Count == 0
            ? stay % cut.Backing.PageSize() == 0
            : cut.Mappings.Any(m => m.Host.Last - cut.Address + 1 == stay);
        if (!whole || stay % cut.Backing.PageSize() != 0)
        {
            throw new LinuxException("pool shrink", Errno.EINVAL, $"{Name}: to {ByteSize.Text(keep)}",
                "the cut would go through a map or a page, which can only be freed whole",
                "shrink by whole segments (vfiopin pool show lists them), or make the pool with --grain");
        }
    }

    // Takes a segment's memory from an offset on out of service, or throws if any of it is lent out.
    private void Withdraw(PoolSegment segment, ulong from)
    {
        lock (_lock)
        {
            Reclaim();
            ThrowIfUsed(UseOf([segment], from), "pool shrink");
            segment.Withdraw(from);
        }
    }

    // Unmaps, then gives the memory back. What was withdrawn stays withdrawn if unmapping fails: a device may still reach it.
    private void Unpin(PoolSegment segment, ulong stay)
    {
        segment.Registered?.ReleaseFrom(segment.Address + stay);
        lock (_lock)
        {
            if (stay == 0)
            {
                Volatile.Write(ref _segments, [.. _segments.AsSpan(0, _segments.Length - 1)]);
                _stacks.Slots = [.. _stacks.Slots.Where(s => s != segment.Slots)];
            }
        }

        Dirty?.Shrunk(segment, whole: stay == 0);
        if (stay == 0)
        {
            segment.Memory.Dispose();
        }
        else
        {
            segment.Memory.Truncate(stay);
            segment.Slots!.Truncate(stay);
        }
    }
}
