using System.Numerics;

namespace Vfio;

/// <summary>Which pages of a pool were written, who says so, and how far that can be trusted.</summary>
public sealed class DirtyAnswer
{
    private readonly ulong[] _words;

    internal DirtyAnswer(ulong length, ulong[] words, DirtyPrecision precision, DirtySources sources, ulong inFlightPages)
    {
        Length = length;
        _words = words;
        Precision = precision;
        Sources = sources;
        InFlightPages = inFlightPages;
    }

    /// <summary>Bytes of the pool.</summary>
    public ulong Length { get; }

    /// <summary>How far it can be trusted.</summary>
    public DirtyPrecision Precision { get; }

    /// <summary>Who says so.</summary>
    public DirtySources Sources { get; }

    /// <summary>Pages that a device may be writing at this moment. They are named here and stay marked for the next answer; while there
    /// are any, the answer is no better than <see cref="DirtyPrecision.Superset"/>.</summary>
    public ulong InFlightPages { get; }

    /// <summary>Pages that are named.</summary>
    public ulong DirtyPages => DirtyBitmap.CountOf(_words);

    /// <summary>A bit per page of 4 KiB, the first page in the lowest bit of the first word.</summary>
    public ReadOnlySpan<ulong> Bits => _words;

    /// <summary>The pages that are named, neighbours joined, ascending.</summary>
    /// <returns>The ranges.</returns>
    public IEnumerable<DirtyRange> Ranges()
    {
        ulong page = 0;
        ulong pages = (ulong)_words.Length * 64;
        while (page < pages)
        {
            ulong first = Next(page, set: true);
            if (first == pages)
            {
                yield break;
            }

            page = Next(first, set: false);
            yield return new DirtyRange(new PoolOffset(first * DirtyBitmap.PageSize), (page - first) * DirtyBitmap.PageSize);
        }
    }

    /// <inheritdoc/>
    public override string ToString() => $"{DirtyPages} dirty pages, {Precision} by {Sources}";

    // The first page from there on whose bit is set, or is not; the number of bits when there is none.
    private ulong Next(ulong page, bool set)
    {
        for (ulong word = page >> 6; word < (ulong)_words.Length; word++)
        {
            ulong bits = set ? _words[word] : ~_words[word];
            if (word == page >> 6)
            {
                bits &= ulong.MaxValue << (int)(page & 63);
            }

            if (bits != 0)
            {
                return (word << 6) + (ulong)BitOperations.TrailingZeroCount(bits);
            }
        }

        return (ulong)_words.Length * 64;
    }
}
