using System.Runtime.CompilerServices;

namespace Vfio;

/// <summary>What is free of a 64-bit space: ascending, never touching ranges, both ends inclusive. Knows nothing of what the space
/// is; <see cref="IovaAllocator"/> and the pool's segments give it a meaning.</summary>
/// <remarks>Not thread-safe. Taking and giving allocate nothing but the growth of one array.</remarks>
internal sealed class FreeRanges
{
    private Free[] _free;
    private int _count;

    // What was given last is not joined with its neighbours before it must be: who takes and gives the same length over and over finds
    // it whole. First behind Last where there is none; their difference is then no length.
    private Free _given;

    public FreeRanges()
    {
        _free = new Free[8];
        ForgetGiven();
    }

    public FreeRanges(FreeRanges other) => (_free, _count, _given) = ([.. other._free], other._count, other._given);

    /// <summary>The free ranges, ascending.</summary>
    public ReadOnlySpan<Free> All
    {
        get
        {
            Join();
            return _free.AsSpan(0, _count);
        }
    }

    /// <summary>Takes what was given last, if it has just that length, at least one, and place.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public bool TryTakeGiven(ulong length, ulong modulus, ulong residue, out ulong first)
    {
        first = _given.First;
        if (unchecked(_given.Last - first) != length - 1 || ((first ^ residue) & (modulus - 1)) != 0)
        {
            return false;
        }

        ForgetGiven();
        return true;
    }

    /// <summary>Takes <paramref name="length"/> bytes, at least one, whose first is congruent to <paramref name="residue"/> modulo
    /// <paramref name="modulus"/>, out of the smallest range that has them: large ranges stay whole.</summary>
    public bool TryTake(ulong length, ulong modulus, ulong residue, bool fromTop, out ulong first)
    {
        int best = -1;
        ulong bestSpan = ulong.MaxValue;
        first = 0;
        ReadOnlySpan<Free> all = All;
        for (int i = 0; i < all.Length; i++)
        {
            ref readonly Free free = ref all[i];
            ulong span = free.Last - free.First;
            // The smallest yet, or the first one that is the whole space.
            if (span >= length - 1 && (span < bestSpan || best < 0) && Fit(free, length, modulus, residue, fromTop, out ulong at))
            {
                (best, bestSpan, first) = (i, span, at);
                if (span == length - 1)
                {
                    break;
                }
            }
        }

        if (best < 0)
        {
            return false;
        }

        Cut(best, first, first + (length - 1));
        return true;
    }

    /// <summary>Takes exactly the range, if all of it is free.</summary>
    public bool TryTakeExactly(ulong first, ulong last)
    {
        Join();
        int i = IndexAtOrBelow(first);
        if (i < 0 || last > _free[i].Last)
        {
            return false;
        }

        Cut(i, first, last);
        return true;
    }

    /// <summary>Makes room, so that the next <see cref="Give"/> needs no memory.</summary>
    public void Reserve()
    {
        // What was given last may have to be put between others first.
        if (_count == _free.Length)
        {
            Array.Resize(ref _free, _count * 2);
        }
    }

    /// <summary>Gives a range back.</summary>
    /// <exception cref="InvalidOperationException">Part of it is free already.</exception>
    public void Give(ulong first, ulong last)
    {
        Join();
        int below = IndexAtOrBelow(first);
        int above = below + 1;
        if ((below >= 0 && _free[below].Last >= first) || (above < _count && _free[above].First <= last))
        {
            throw new InvalidOperationException($"0x{first:x}-0x{last:x} is free already");
        }

        _given = new Free { First = first, Last = last };
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private void ForgetGiven() => (_given.First, _given.Last) = (1, 0);

    // Joins what was given last with its neighbours.
    private void Join()
    {
        (ulong first, ulong last) = (_given.First, _given.Last);
        if (first > last)
        {
            return;
        }

        int below = IndexAtOrBelow(first);
        int above = below + 1;
        bool joinsBelow = below >= 0 && _free[below].Last + 1 == first;
        bool joinsAbove = above < _count && last + 1 == _free[above].First;
        switch (joinsBelow, joinsAbove)
        {
            case (true, true):
                _free[below].Last = _free[above].Last;
                RemoveAt(above);
                break;
            case (true, false):
                _free[below].Last = last;
                break;
            case (false, true):
                _free[above].First = first;
                break;
            case (false, false):
                Insert(above, new Free { First = first, Last = last });
                break;
        }

        ForgetGiven();
    }

    /// <summary>The last range that starts at or below <paramref name="position"/>, or -1.</summary>
    private int IndexAtOrBelow(ulong position) => new ReadOnlySpan<Free>(_free, 0, _count).LastAtOrBelow(new StartAt(position));

    private void Cut(int index, ulong first, ulong last)
    {
        ref Free free = ref _free[index];
        if (first == free.First)
        {
            if (last == free.Last)
            {
                RemoveAt(index);
            }
            else
            {
                free.First = last + 1;
            }

            return;
        }

        ulong end = free.Last;
        free.Last = first - 1;
        if (last < end)
        {
            Insert(index + 1, new Free { First = last + 1, Last = end });
        }
    }

    private void Insert(int index, Free range)
    {
        Reserve();
        if (index < _count)
        {
            MoveUp(index);
        }

        _free[index] = range;
        _count++;
    }

    // Few are moved one by one, which is no call.
    private void MoveUp(int index)
    {
        const int Few = 4;
        Free[] free = _free;
        int count = _count;
        if (count - index > Few)
        {
            Array.Copy(free, index, free, index + 1, count - index);
            return;
        }

        for (int i = count; i > index; i--)
        {
            free[i] = free[i - 1];
        }
    }

    private void RemoveAt(int index)
    {
        _free.AsSpan(index + 1, _count - index - 1).CopyTo(_free.AsSpan(index));
        _count--;
    }

    // The remainder arithmetic is modulo 2^64 on purpose; wrapping past an end is tested for afterwards.
    private static bool Fit(in Free free, ulong length, ulong modulus, ulong residue, bool fromTop, out ulong at)
    {
        unchecked
        {
            if (fromTop)
            {
                ulong highest = free.Last - (length - 1);
                at = highest - ((highest - residue) & (modulus - 1));
                return at >= free.First && at <= highest;
            }

            at = free.First + ((residue - free.First) & (modulus - 1));
            return at >= free.First && at <= free.Last && free.Last - at >= length - 1;
        }
    }

    /// <summary>One free range.</summary>
    internal struct Free
    {
        public ulong First;
        public ulong Last;
    }

    private readonly struct StartAt(ulong position) : IComparable<Free>
    {
        public int CompareTo(Free other) => position.CompareTo(other.First);
    }
}
