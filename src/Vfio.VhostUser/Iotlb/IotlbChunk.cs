namespace Vfio.VhostUser;

/// <summary>A run of neighbouring translations inside a snapshot. The ranges never change once readers can see them.</summary>
internal sealed class IotlbChunk
{
    /// <summary>A change copies one chunk and the list of chunks: this size keeps both small up to the largest capacity.</summary>
    public const int MaxRanges = 128;

    /// <summary>A chunk that falls below this is joined with its neighbour, so that the list of chunks stays short.</summary>
    public const int MinRanges = MaxRanges / 4;

    public IotlbChunk(IotlbRange[] ranges)
    {
        Ranges = ranges;
        Referenced = new byte[ranges.Length];
    }

    /// <summary>Sorted, not overlapping, never empty.</summary>
    public IotlbRange[] Ranges { get; }

    /// <summary>CLOCK's bit for each range: set by readers, taken back by eviction. A hint: a lost store costs a miss at worst, so
    /// nobody orders or locks it.</summary>
    public byte[] Referenced { get; }

    /// <summary>The first range that ends at or after an address.</summary>
    /// <param name="address">The address.</param>
    /// <returns>Its index, or the number of ranges where all end before.</returns>
    public int IndexOf(Iova address)
    {
        IotlbRange[] ranges = Ranges;
        int low = 0;
        int high = ranges.Length;
        while (low < high)
        {
            int middle = (low + high) >>> 1;
            if (ranges[middle].Range.Last.Value < address.Value)
            {
                low = middle + 1;
            }
            else
            {
                high = middle;
            }
        }

        return low;
    }
}
