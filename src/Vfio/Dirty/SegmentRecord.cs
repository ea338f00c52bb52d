namespace Vfio;

/// <summary>The record of one segment: its dirty pages, and for each page how many device writes are in flight.</summary>
internal sealed class SegmentRecord(PoolSegment segment)
{
    private readonly int[] _inFlight = new int[(segment.Length + DirtyBitmap.PageSize - 1) / DirtyBitmap.PageSize];

    public PoolSegment Segment { get; } = segment;

    public HostAddress Address { get; } = segment.Address;

    public DirtyBitmap Bits { get; } = new(segment.Length);

    public void Begin(ulong offset, ulong length)
    {
        for (ulong page = offset / DirtyBitmap.PageSize; page <= (offset + length - 1) / DirtyBitmap.PageSize; page++)
        {
            Interlocked.Increment(ref _inFlight[page]);
        }
    }

    public void End(ulong offset, ulong length)
    {
        for (ulong page = offset / DirtyBitmap.PageSize; page <= (offset + length - 1) / DirtyBitmap.PageSize; page++)
        {
            Interlocked.Decrement(ref _inFlight[page]);
        }
    }

    /// <summary>Adds the pages in flight to <paramref name="words"/> and, where asked, marks them again.</summary>
    /// <returns>How many there are.</returns>
    public ulong AddInFlight(Span<ulong> words, bool mark)
    {
        ulong count = 0;
        for (int page = 0; page < _inFlight.Length; page++)
        {
            // ORDER: acquire; pairs with the exchanges in Begin and End: a write that is seen as ended has marked its bits.
            if (Volatile.Read(ref _inFlight[page]) != 0)
            {
                count++;
                words[page >> 6] |= 1ul << (page & 63);
                if (mark)
                {
                    Bits.Mark(new PoolOffset((ulong)page * DirtyBitmap.PageSize), 1);
                }
            }
        }

        return count;
    }
}
