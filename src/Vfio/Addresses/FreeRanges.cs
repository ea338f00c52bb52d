using System.Runtime.InteropServices;

namespace Vfio;

/// <summary>What is free of a 64-bit space: ascending, never touching ranges, both ends inclusive. Knows nothing of what the space
/// is; <see cref="IovaAllocator"/> and the pool's segments give it a meaning.</summary>
/// <remarks>Not thread-safe. Taking and giving allocate nothing but the growth of one list.</remarks>
internal sealed class FreeRanges
{
    private readonly List<Free> _free = [];

    public FreeRanges()
    {
    }

    public FreeRanges(FreeRanges other) => _free.AddRange(other._free);

    /// <summary>The free ranges, ascending.</summary>
    public ReadOnlySpan<Free> All => CollectionsMarshal.AsSpan(_free);

    /// <summary>Takes <paramref name="length"/> bytes whose first is congruent to <paramref name="residue"/> modulo
    /// <paramref name="modulus"/>, out of the smallest range that has them: large ranges stay whole.</summary>
    public bool TryTake(ulong length, ulong modulus, ulong residue, bool fromTop, out ulong first)
    {
        int best = -1;
        ulong bestSpan = 0;
        first = 0;
        ReadOnlySpan<Free> all = All;
        for (int i = 0; i < all.Length; i++)
        {
            Free free = all[i];
            ulong span = free.Last - free.First;
            if (span >= length - 1 && (best < 0 || span < bestSpan) && Fit(free, length, modulus, residue, fromTop, out ulong at))
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
        int i = IndexAtOrBelow(first);
        if (i < 0 || last > _free[i].Last)
        {
            return false;
        }

        Cut(i, first, last);
        return true;
    }

    /// <summary>Gives a range back, joining it with its neighbours.</summary>
    /// <exception cref="InvalidOperationException">Part of it is free already.</exception>
    public void Give(ulong first, ulong last)
    {
        int below = IndexAtOrBelow(first);
        int above = below + 1;
        if ((below >= 0 && _free[below].Last >= first) || (above < _free.Count && _free[above].First <= last))
        {
            throw new InvalidOperationException($"0x{first:x}-0x{last:x} is free already");
        }

        bool joinsBelow = below >= 0 && _free[below].Last + 1 == first;
        bool joinsAbove = above < _free.Count && last + 1 == _free[above].First;
        switch (joinsBelow, joinsAbove)
        {
            case (true, true):
                _free[below] = new Free(_free[below].First, _free[above].Last);
                _free.RemoveAt(above);
                break;
            case (true, false):
                _free[below] = new Free(_free[below].First, last);
                break;
            case (false, true):
                _free[above] = new Free(first, _free[above].Last);
                break;
            case (false, false):
                _free.Insert(above, new Free(first, last));
                break;
        }
    }

    /// <summary>The last range that starts at or below <paramref name="position"/>, or -1.</summary>
    private int IndexAtOrBelow(ulong position)
    {
        int low = 0;
        int high = _free.Count - 1;
        while (low <= high)
        {
            int middle = (low + high) >>> 1;
            if (_free[middle].First <= position)
            {
                low = middle + 1;
            }
            else
            {
                high = middle - 1;
            }
        }

        return high;
    }

    private void Cut(int index, ulong first, ulong last)
    {
        Free free = _free[index];
        bool below = first > free.First;
        bool above = last < free.Last;
        if (below)
        {
            _free[index] = new Free(free.First, first - 1);
            if (above)
            {
                _free.Insert(index + 1, new Free(last + 1, free.Last));
            }
        }
        else if (above)
        {
            _free[index] = new Free(last + 1, free.Last);
        }
        else
        {
            _free.RemoveAt(index);
        }
    }

    // The remainder arithmetic is modulo 2^64 on purpose; wrapping past an end is tested for afterwards.
    private static bool Fit(Free free, ulong length, ulong modulus, ulong residue, bool fromTop, out ulong at)
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
    internal readonly record struct Free(ulong First, ulong Last);
}
