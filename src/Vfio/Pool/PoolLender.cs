using System.Diagnostics.CodeAnalysis;
using System.Globalization;
using Vfio.Linux;

namespace Vfio;

/// <summary>Lends out the memory of a pool's segments: buffers of one size and larger pieces, out of the same free ranges. What is lent out is
/// what is neither in a segment's free ranges nor in a stack of free buffers, so nothing is counted on the way.</summary>
internal sealed class PoolLender(string name, int bufferSize, bool isChecked)
{
    private const ulong Page = 4096;

    private readonly BufferStacks _stacks = new();
    private readonly BufferLedger? _ledger = isChecked ? new BufferLedger(name) : null;
    // Covers the segments' free ranges and the pieces; held shortly.
    private readonly Lock _lock = new();
    private readonly Dictionary<HostAddress, ulong> _allocated = [];
    private PoolSegment[] _segments = [];

    // ORDER: acquire; pairs with the releases in Add and RemoveLast.
    public PoolSegment[] Segments => Volatile.Read(ref _segments);

    /// <summary>Whether returned buffers are overwritten.</summary>
    public bool IsChecked => _ledger is not null;

    public void Add(PoolSegment segment)
    {
        lock (_lock)
        {
            BufferSlots[] slots = _stacks.Slots;
            uint first = slots.Length == 0 ? 0 : checked(slots[^1].First + slots[^1].Count);
            segment.Slots = new BufferSlots(first, segment.Address, segment.Iova, segment.Length, bufferSize);
            Volatile.Write(ref _segments, [.. _segments, segment]);
            _stacks.Slots = [.. slots, segment.Slots];
        }
    }

    /// <summary>Forgets the last segment, which is out of service.</summary>
    public void RemoveLast()
    {
        lock (_lock)
        {
            PoolSegment last = _segments[^1];
            Volatile.Write(ref _segments, [.. _segments.AsSpan(0, _segments.Length - 1)]);
            _stacks.Slots = [.. _stacks.Slots.Where(s => s != last.Slots)];
        }
    }

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

    /// <summary>Takes a buffer back; false when it is none of the pool's.</summary>
    public bool TryReturn(in PinnedBuffer buffer)
    {
        BufferSlots? slots = _stacks.Find(buffer.Address);
        ulong offset = slots is null ? 0 : buffer.Address - slots.Address;
        if (slots is null || buffer.Length != bufferSize || (offset & (ulong)(bufferSize - 1)) != 0)
        {
            return false;
        }

        _ledger?.Returned(buffer);
        _stacks.Push(slots, slots.IndexAt(offset));
        return true;
    }

    public PinnedBuffer Allocate(int length)
    {
        ulong whole = ((ulong)length + Page - 1) & ~(Page - 1);
        lock (_lock)
        {
            // Room first: a piece that is taken and not noted down could never be freed.
            _allocated.EnsureCapacity(_allocated.Count + 1);
            if (!TryTake(whole, out PoolSegment? segment, out ulong offset))
            {
                // Free buffers may be in the way.
                Reclaim();
                if (!TryTake(whole, out segment, out offset))
                {
                    throw new LinuxException("pool", Errno.ENOMEM, $"{name}: {ByteSize.Text(whole)} in one piece",
                        "no free piece of the pool is large enough", "return buffers, or vfiopin pool grow");
                }
            }

            var piece = new PinnedBuffer(new Iova(segment.Iova.Value + offset), segment.Address + offset, length);
            _allocated.Add(piece.Address, whole);
            return piece;
        }
    }

    /// <summary>Takes a piece back; false when none was allocated there.</summary>
    public bool TryFree(HostAddress address)
    {
        lock (_lock)
        {
            if (!_allocated.TryGetValue(address, out ulong whole))
            {
                return false;
            }

            PoolSegment segment = Array.Find(_segments, s => HostRange.Of(s.Address, s.Length).Contains(address))!;
            ulong offset = address - segment.Address;
            // Room first: a piece that is neither allocated nor free would keep the pool from ever being destroyed.
            segment.Free.Reserve();
            _allocated.Remove(address);
            segment.Free.Give(offset, offset + whole - 1);
            return true;
        }
    }

    public PoolUse Use()
    {
        lock (_lock)
        {
            Reclaim();
            return UseOf(0);
        }
    }

    /// <summary>Throws when any of the end of the pool is lent out.</summary>
    /// <param name="keep">Bytes that do not matter.</param>
    /// <param name="call">What is being done, for the message.</param>
    public void DemandFree(ulong keep, string call)
    {
        lock (_lock)
        {
            Reclaim();
            ThrowIfUsed(UseOf(keep), call);
        }
    }

    /// <summary>Takes the end of the pool out of service. Throws, and changes nothing, when any of it is lent out.</summary>
    /// <param name="keep">Bytes that stay.</param>
    /// <param name="call">What is being done, for the message.</param>
    public void Withdraw(ulong keep, string call)
    {
        lock (_lock)
        {
            Reclaim();
            ThrowIfUsed(UseOf(keep), call);
            foreach (PoolSegment segment in _segments)
            {
                segment.Withdraw(segment.StayOf(keep));
            }
        }
    }

    // Cuts buffers out of free memory: as many as a thread's stack holds, so that the lock is met once in so many.
    private bool TryCut(out uint index)
    {
        ulong size = (ulong)bufferSize;
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

            _segments[segment].Free.Give(slots.OffsetOf(free[i]), slots.OffsetOf(free[end - 1]) + (ulong)bufferSize - 1);
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

    // Of what is behind so many bytes of the pool.
    private PoolUse UseOf(ulong keep)
    {
        ulong used = 0;
        ulong allocated = 0;
        int pieces = 0;
        foreach (PoolSegment segment in _segments)
        {
            ulong from = segment.StayOf(keep);
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

        return new PoolUse((long)((used - allocated) / (ulong)bufferSize), pieces, used, _ledger?.Renters ?? []);
    }

    private void ThrowIfUsed(PoolUse use, string call)
    {
        if (use.Bytes > 0)
        {
            string who = use.Renters.Count > 0 ? $"; {string.Join("; ", use.Renters.Take(4))}" : string.Empty;
            throw new LinuxException(call, Errno.EBUSY,
                string.Create(CultureInfo.InvariantCulture, $"{name}: {use.Buffers} buffers and {use.Pieces} pieces are lent out{who}"),
                "a device or a caller may still use them", "stop the queues that use the pool first");
        }
    }
}
