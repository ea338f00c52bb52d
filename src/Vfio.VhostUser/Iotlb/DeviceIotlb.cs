namespace Vfio.VhostUser;

/// <summary>The translations that a front-end gave to one device (vhost-user specification, "IOMMU support"). Pollers read
/// <see cref="Snapshot"/> without a lock; changes come from the session and replace the snapshot as a whole.</summary>
/// <remarks>
/// <para>Thread-safe. A change is visible to batches that begin after it. Whoever takes a translation away waits for a
/// <see cref="GracePeriod"/> before the memory behind it goes or the front-end is told that it may: this class does not wait.</para>
/// <para>Nothing here writes to a socket.</para>
/// </remarks>
public sealed class DeviceIotlb
{
    /// <summary>The default of <see cref="Capacity"/>: as many as a VFIO container has by default.</summary>
    public const int DefaultCapacity = 65536;

    private readonly Lock _changing = new();
    private readonly IotlbEditor _editor = new();
    private readonly Dictionary<object, IovaRange[]> _held = [];
    private readonly List<IotlbView> _views = [];
    private IotlbSnapshot _snapshot = IotlbSnapshot.Empty;
    private Iova _hand;
    private long _updates;
    private long _merged;
    private long _evicted;
    private long _invalidated;
    private long _hits;
    private long _misses;
    private long _accessFailures;

    /// <summary>An empty IOTLB.</summary>
    /// <param name="capacity">Ranges that it holds, at least 1.</param>
    /// <param name="missTimeout">How long a miss stands that the front-end passed over, before it is asked again; null for 100 ms. Twenty
    /// times as long where nothing shows yet that it did.</param>
    public DeviceIotlb(int capacity = DefaultCapacity, TimeSpan? missTimeout = null)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(capacity);
        Capacity = capacity;
        TimeSpan timeout = missTimeout ?? TimeSpan.FromMilliseconds(100);
        Questions = new IotlbQuestions(this, timeout, 20 * timeout);
    }

    /// <summary>Ranges that it holds at most, but for those that a ring lies in: these are never thrown out.</summary>
    public int Capacity { get; }

    /// <summary>The present translations. Read it once a batch.</summary>
    // ORDER: acquire; pairs with the release in Swap: the chunks before the snapshot that points at them.
    public IotlbSnapshot Snapshot => Volatile.Read(ref _snapshot);

    /// <summary>What was asked of the front-end and not yet answered.</summary>
    public IotlbQuestions Questions { get; }

    /// <summary>What it did so far.</summary>
    public IotlbCounters Counters
    {
        get
        {
            lock (_changing)
            {
                var counters = new IotlbCounters(
                    Snapshot.Count, Questions.Pending, _hits, _misses, _accessFailures, _updates, _merged, _evicted, _invalidated,
                    Questions.TimedOut, Questions.Unasked, Questions.Unreported);
                foreach (IotlbView view in _views)
                {
                    counters = view.AddTo(counters);
                }

                return counters;
            }
        }
    }

    /// <summary>Takes a translation in. What it contradicts is replaced or cut; what it agrees with is merged.</summary>
    /// <param name="translation">The range, where it is in this process, and what the device may do there.</param>
    /// <exception cref="ArgumentOutOfRangeException">It ends beyond what a process can address.</exception>
    public void Update(IotlbRange translation)
    {
        ulong span = translation.Range.Last - translation.Range.First;
        // IotlbView's clamping and AddressWindow count on offsets and lengths below 2^63.
        if (translation.Access != DmaAccess.None
            && (span > long.MaxValue || translation.Host.Value > long.MaxValue - span))
        {
            throw new ArgumentOutOfRangeException(
                nameof(translation), translation, "beyond 2^63; no process has memory there");
        }

        lock (_changing)
        {
            _updates++;
            IotlbSnapshot next = _editor.Replace(_snapshot, translation.Range, translation);
            _merged += _editor.Merged;
            if (next.Count > Capacity)
            {
                next = Evict(next, translation.Range);
            }

            Swap(next);
        }

        // After the swap: a view that finds its question answered finds the answer.
        Questions.Answer(translation.Range);
    }

    /// <summary>Forgets exactly a range; translations that reach beyond it are cut.</summary>
    /// <param name="range">The range; may be the whole address space.</param>
    /// <returns>How many ranges were removed or cut.</returns>
    public int Invalidate(IovaRange range)
    {
        int displaced;
        lock (_changing)
        {
            IotlbSnapshot next = _editor.Replace(_snapshot, range, null);
            displaced = _editor.Displaced;
            _invalidated += displaced;
            Swap(next);
        }

        Questions.Forgive(range);
        return displaced;
    }

    /// <summary>Forgets everything, questions too: the session ended, the memory table changed, or the device was reset. Nothing of it
    /// counts as invalidated.</summary>
    public void Clear()
    {
        lock (_changing)
        {
            Swap(_editor.Replace(_snapshot, new IovaRange(new Iova(0), new Iova(ulong.MaxValue)), null));
        }

        Questions.Clear();
    }

    /// <summary>Keeps ranges from being thrown out for want of room: a ring lies there. They can still be invalidated.</summary>
    /// <param name="owner">Whose they are; earlier ones of the same owner are released.</param>
    /// <param name="ranges">The ranges.</param>
    public void Hold(object owner, params ReadOnlySpan<IovaRange> ranges)
    {
        lock (_changing)
        {
            _held[owner] = ranges.ToArray();
        }
    }

    /// <summary>Releases what <see cref="Hold"/> kept.</summary>
    /// <param name="owner">The owner given there.</param>
    public void Release(object owner)
    {
        lock (_changing)
        {
            _held.Remove(owner);
        }
    }

    internal void Add(IotlbView view)
    {
        lock (_changing)
        {
            _views.Add(view);
        }
    }

    internal void Remove(IotlbView view)
    {
        lock (_changing)
        {
            if (_views.Remove(view))
            {
                IotlbCounters last = view.AddTo(default);
                _hits += last.Hits;
                _misses += last.Misses;
                _accessFailures += last.AccessFailures;
            }
        }
    }

    private void Swap(IotlbSnapshot next)
    {
        if (next != _snapshot)
        {
            // ORDER: release; pairs with the acquire in Snapshot.
            Volatile.Write(ref _snapshot, next);
        }
    }

    // CLOCK: the hand passes over the ranges; one that was used since it last came by is spared once. Several go at a time,
    // because each removal starts a new generation and thus empties the last hits of every queue.
    private IotlbSnapshot Evict(IotlbSnapshot snapshot, IovaRange keep)
    {
        int target = Capacity - (Capacity / 32);
        int patience = 2 * snapshot.Count;
        int chunk = snapshot.ChunkOf(_hand);
        int index = chunk < snapshot.Chunks.Length ? snapshot.Chunks[chunk].IndexOf(_hand) : 0;
        while (snapshot.Count > target && patience-- > 0)
        {
            if (chunk >= snapshot.Chunks.Length)
            {
                chunk = 0;
                index = 0;
            }

            IotlbChunk current = snapshot.Chunks[chunk];
            IovaRange range = current.Ranges[index].Range;
            if (current.Referenced[index] == 0 && !range.Overlaps(keep) && !IsHeld(range))
            {
                snapshot = _editor.Replace(snapshot, range, null);
                _evicted++;
                chunk = snapshot.ChunkOf(range.Last);
                index = chunk < snapshot.Chunks.Length ? snapshot.Chunks[chunk].IndexOf(range.Last) : 0;
                continue;
            }

            current.Referenced[index] = 0;
            if (++index == current.Ranges.Length)
            {
                chunk++;
                index = 0;
            }
        }

        _hand = chunk < snapshot.Chunks.Length ? snapshot.Chunks[chunk].Ranges[index].Range.First : new Iova(0);
        return snapshot;
    }

    private bool IsHeld(IovaRange range)
    {
        foreach (IovaRange[] ranges in _held.Values)
        {
            foreach (IovaRange held in ranges)
            {
                if (held.Overlaps(range))
                {
                    return true;
                }
            }
        }

        return false;
    }
}
