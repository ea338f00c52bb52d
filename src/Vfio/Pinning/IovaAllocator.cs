namespace Vfio;

/// <summary>Hands out ranges of IOVAs inside a container's valid ranges and takes them back for re-use. It knows addresses only:
/// whether something is mapped there is its owner's to know.</summary>
/// <remarks>Not thread-safe. Takes what was given back last where it has the length that is asked for, else the smallest free range that
/// fits, so that large ranges stay whole. Never hands out the first page of the space, so that a device that was given a null address
/// faults, nor the last, which kernels before 6.18 cannot map.</remarks>
public sealed class IovaAllocator
{
    private const ulong Page = 4096;
    private List<IovaRange> _valid;
    private FreeRanges _free;

    /// <summary>Starts with everything in <paramref name="validRanges"/> free.</summary>
    /// <param name="validRanges">Ranges that do not overlap, as <see cref="Type1Iommu.ValidRanges"/> tells them.</param>
    public IovaAllocator(IReadOnlyList<IovaRange> validRanges)
    {
        ArgumentNullException.ThrowIfNull(validRanges);
        _valid = Usable(validRanges);
        _free = FreeOf(_valid);
    }

    private IovaAllocator(IovaAllocator other)
    {
        _valid = other._valid;
        _free = new FreeRanges(other._free);
    }

    /// <summary>Bytes of the largest free range.</summary>
    public ulong LargestFree
    {
        get
        {
            ulong largest = 0;
            foreach (FreeRanges.Free free in _free.All)
            {
                largest = Math.Max(largest, free.Last - free.First + 1);
            }

            return largest;
        }
    }

    /// <summary>Takes a range whose first byte is congruent to a host address.</summary>
    /// <param name="length">Bytes, a multiple of 4 KiB.</param>
    /// <param name="congruentTo">The host address that will be mapped there.</param>
    /// <param name="modulus">Bytes, a power of two of at least 4 KiB: a large page's size, so that the IOMMU can use such pages.</param>
    /// <param name="range">The range.</param>
    /// <returns>False when no free range is large enough.</returns>
    public bool TryAllocate(ulong length, HostAddress congruentTo, ulong modulus, out IovaRange range)
    {
        ArgumentOutOfRangeException.ThrowIfZero(length);
        if (!TryTake(length, congruentTo, modulus, out Iova first))
        {
            range = default;
            return false;
        }

        range = IovaRange.Of(first, length);
        return true;
    }

    /// <summary>As <see cref="TryAllocate"/>, for a length that is not zero.</summary>
    internal bool TryTake(ulong length, HostAddress congruentTo, ulong modulus, out Iova first)
    {
        ulong at = 0;
        bool found = (length & (Page - 1)) == 0
            && (_free.TryTakeGiven(length, modulus, congruentTo.Value, out at)
                || _free.TryTake(length, modulus, congruentTo.Value, fromTop: false, out at));
        first = new Iova(at);
        return found;
    }

    /// <summary>Takes exactly this range.</summary>
    /// <param name="range">The range.</param>
    /// <returns>False when it is not wholly free and valid.</returns>
    public bool TryReserve(IovaRange range) => _free.TryTakeExactly(range.First.Value, range.Last.Value);

    /// <summary>Gives back a range, or part of one, that was taken.</summary>
    /// <param name="range">The range.</param>
    /// <exception cref="InvalidOperationException">Part of it is free already, or was never valid.</exception>
    public void Release(IovaRange range)
    {
        foreach (IovaRange valid in _valid)
        {
            if (valid.Contains(range))
            {
                _free.Give(range.First.Value, range.Last.Value);
                return;
            }
        }

        throw new InvalidOperationException($"iova {range} was never handed out");
    }

    /// <summary>Makes room, so that the next <see cref="Release"/> needs no memory.</summary>
    internal void Reserve() => _free.Reserve();

    /// <summary>Takes over new valid ranges, as they come when a group was attached; what is handed out stays handed out.</summary>
    /// <param name="validRanges">The new ranges.</param>
    /// <exception cref="InvalidOperationException">Something handed out is not valid any more. (The kernel refuses such a group.)</exception>
    public void Update(IReadOnlyList<IovaRange> validRanges)
    {
        ArgumentNullException.ThrowIfNull(validRanges);
        List<IovaRange> valid = Usable(validRanges);
        FreeRanges free = FreeOf(valid);
        foreach (IovaRange taken in Taken())
        {
            if (!free.TryTakeExactly(taken.First.Value, taken.Last.Value))
            {
                throw new InvalidOperationException($"iova {taken} is in use and not in the new valid ranges");
            }
        }

        (_valid, _free) = (valid, free);
    }

    /// <summary>A copy, to try a plan on.</summary>
    internal IovaAllocator Clone() => new(this);

    private static FreeRanges FreeOf(List<IovaRange> valid)
    {
        var free = new FreeRanges();
        foreach (IovaRange range in valid)
        {
            free.Give(range.First.Value, range.Last.Value);
        }

        return free;
    }

    private static List<IovaRange> Usable(IReadOnlyList<IovaRange> ranges)
    {
        var usable = new List<IovaRange>(ranges.Count);
        foreach (IovaRange range in ranges)
        {
            ulong first = range.First.Value == 0 ? Page : range.First.Value;
            ulong last = Math.Min(range.Last.Value, ulong.MaxValue - Page);
            if (first > ulong.MaxValue - Page)
            {
                continue;
            }

            first = (first + Page - 1) & ~(Page - 1);
            // The byte after the last whole page; the last page of the space is gone already, so this does not wrap.
            ulong end = (last + 1) & ~(Page - 1);
            if (first < end)
            {
                usable.Add(new IovaRange(new Iova(first), new Iova(end - 1)));
            }
        }

        usable.Sort((a, b) => a.First.CompareTo(b.First));
        for (int i = 1; i < usable.Count; i++)
        {
            // A mapping must lie in one range (vfio_iommu_iova_dma_valid), so two that touch are kept a page apart.
            if (usable[i].First.Value == usable[i - 1].Last.Value + 1)
            {
                usable[i - 1] = new IovaRange(usable[i - 1].First, new Iova(usable[i - 1].Last.Value - Page));
            }
        }

        return usable;
    }

    private List<IovaRange> Taken()
    {
        var taken = new List<IovaRange>();
        foreach (IovaRange valid in _valid)
        {
            ulong next = valid.First.Value;
            foreach (FreeRanges.Free free in _free.All)
            {
                if (free.Last < valid.First.Value || free.First > valid.Last.Value)
                {
                    continue;
                }

                if (free.First > next)
                {
                    taken.Add(new IovaRange(new Iova(next), new Iova(free.First - 1)));
                }

                next = free.Last + 1;
            }

            if (next <= valid.Last.Value)
            {
                taken.Add(new IovaRange(new Iova(next), valid.Last));
            }
        }

        return taken;
    }
}
