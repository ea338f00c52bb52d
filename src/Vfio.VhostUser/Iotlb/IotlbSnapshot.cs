using Vfio.Virtio;

namespace Vfio.VhostUser;

/// <summary>All translations of a device at one moment: immutable, sorted, not overlapping. Pollers read it without a lock, inside
/// one batch of their <see cref="GracePeriodReader"/>; what it points at stays mapped until they pass a quiescent point.</summary>
/// <remarks>It is an array of ranges in two levels, and not one flat array: pages that a guest maps and unmaps one at a time would
/// each cost a copy of everything (a gigabyte of 4 KiB pages is 262144 ranges). The whole is still swapped at once.</remarks>
public sealed class IotlbSnapshot
{
    private readonly IotlbChunk[] _chunks;
    // The last address of each chunk, apart from the chunks so that the search touches few cache lines.
    private readonly ulong[] _lasts;

    internal IotlbSnapshot(IotlbChunk[] chunks, ulong[] lasts, int count, long generation)
    {
        _chunks = chunks;
        _lasts = lasts;
        Count = count;
        Generation = generation;
    }

    /// <summary>Ranges in it, after merging.</summary>
    public int Count { get; }

    /// <summary>At least 1. Grows whenever a translation was taken away or changed, and not when one was only added: what was found at a
    /// generation holds for as long as the generation does.</summary>
    public long Generation { get; }

    internal static IotlbSnapshot Empty { get; } = new([], [], 0, 1);

    internal ReadOnlySpan<IotlbChunk> Chunks => _chunks;

    /// <summary>Finds the translation of an address.</summary>
    /// <param name="address">The address.</param>
    /// <param name="found">The range that holds it.</param>
    /// <returns>False when nothing is known of the address.</returns>
    public bool TryFind(Iova address, out IotlbRange found)
    {
        int chunk = ChunkOf(address);
        if (chunk < _chunks.Length)
        {
            IotlbChunk candidates = _chunks[chunk];
            // Never past the end: the chunk's last range ends at or after the address.
            int index = candidates.IndexOf(address);
            found = candidates.Ranges[index];
            if (found.Range.First.Value <= address.Value)
            {
                Touch(candidates, index);
                return true;
            }
        }

        found = default;
        return false;
    }

    /// <summary>Looks a whole range up: every piece that may be used, every piece that is missing and every piece that may not be
    /// used so, in the order of their addresses.</summary>
    /// <param name="range">The range.</param>
    /// <param name="access">What is going to be done there: one of read and write, or both.</param>
    /// <param name="pieces">Filled from the front; at least one long.</param>
    /// <returns>How many pieces. They cover the range from its first byte on without gaps, and to its last byte unless
    /// <paramref name="pieces"/> was too short: then look up the rest, behind the last piece.</returns>
    public int Lookup(IovaRange range, DmaAccess access, Span<IotlbPiece> pieces)
    {
        int count = 0;
        int chunk = ChunkOf(range.First);
        int index = chunk < _chunks.Length ? _chunks[chunk].IndexOf(range.First) : 0;
        ulong next = range.First.Value;
        ulong last = range.Last.Value;
        while (count < pieces.Length)
        {
            if (chunk >= _chunks.Length || _chunks[chunk].Ranges[index].Range.First.Value > last)
            {
                pieces[count++] = new IotlbPiece(TranslationStatus.Miss, Between(next, last), default);
                break;
            }

            IotlbChunk current = _chunks[chunk];
            IotlbRange found = current.Ranges[index];
            if (found.Range.First.Value > next)
            {
                pieces[count++] = new IotlbPiece(
                    TranslationStatus.Miss, Between(next, found.Range.First.Value - 1), default);
                next = found.Range.First.Value;
                continue;
            }

            Touch(current, index);
            ulong end = Math.Min(found.Range.Last.Value, last);
            bool allowed = (found.Access & access) == access;
            pieces[count++] = new IotlbPiece(
                allowed ? TranslationStatus.Translated : TranslationStatus.Denied,
                Between(next, end),
                allowed ? found.At(new Iova(next)) : default);
            // The end is compared before one is added: the range may reach the end of the address space.
            if (end == last)
            {
                break;
            }

            next = end + 1;
            if (++index == current.Ranges.Length)
            {
                chunk++;
                index = 0;
            }
        }

        return count;
    }

    /// <summary>The chunk that holds an address, if any does.</summary>
    /// <param name="address">The address.</param>
    /// <returns>The first chunk that ends at or after it; the number of chunks where all end before.</returns>
    internal int ChunkOf(Iova address)
    {
        ulong[] lasts = _lasts;
        int low = 0;
        int high = lasts.Length;
        while (low < high)
        {
            int middle = (low + high) >>> 1;
            if (lasts[middle] < address.Value)
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

    private static IovaRange Between(ulong first, ulong last) => new(new Iova(first), new Iova(last));

    private static void Touch(IotlbChunk chunk, int index)
    {
        // Tested first: most are set, and a store would take the line away from other readers.
        if (chunk.Referenced[index] == 0)
        {
            chunk.Referenced[index] = 1;
        }
    }
}
