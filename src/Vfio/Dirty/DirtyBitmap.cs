using System.Numerics;
using System.Runtime.Intrinsics;

namespace Vfio;

/// <summary>Which pages of a piece of memory were written: a bit per page of 4 KiB.</summary>
/// <remarks>Thread-safe: many may mark while one harvests, and no mark is lost. A bit is cleared only by the one who harvests it.
/// Marking allocates nothing.</remarks>
public sealed class DirtyBitmap
{
    /// <summary>Bytes that one bit stands for.</summary>
    public const ulong PageSize = 4096;

    private const int PageShift = 12;
    private readonly ulong[] _words;

    /// <summary>A clean bitmap.</summary>
    /// <param name="length">Bytes of memory, at least 1; a last page in part counts as a page.</param>
    public DirtyBitmap(ulong length)
    {
        ArgumentOutOfRangeException.ThrowIfZero(length);
        Length = length;
        _words = new ulong[checked((int)WordsFor(length))];
    }

    /// <summary>Bytes of memory that it covers.</summary>
    public ulong Length { get; }

    /// <summary>Words of 64 bits that a harvest needs.</summary>
    public int Words => _words.Length;

    /// <summary>Pages that are marked.</summary>
    public ulong Count => CountOf(_words);

    /// <summary>Marks the pages that hold any of the bytes.</summary>
    /// <param name="first">The first byte, from the start of the memory.</param>
    /// <param name="length">Bytes; 0 marks nothing.</param>
    /// <exception cref="ArgumentOutOfRangeException">The bytes are not wholly inside.</exception>
    /// <remarks>The bytes must be visible to all processors before: those of a device are when its completion has been read; for one's own
    /// stores, <see cref="DirtyTracker.Written"/> has the fence. Without it a set bit could be read before the store is seen, and a
    /// harvest in between would clear the bit and copy the old bytes.</remarks>
    public void Mark(PoolOffset first, ulong length)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(first.Value, Length, nameof(first));
        ArgumentOutOfRangeException.ThrowIfGreaterThan(length, Length - first.Value);
        if (length == 0)
        {
            return;
        }

        ulong firstPage = first.Value >> PageShift;
        ulong lastPage = (first.Value + length - 1) >> PageShift;
        int word = (int)(firstPage >> 6);
        int lastWord = (int)(lastPage >> 6);
        ulong mask = ulong.MaxValue << (int)(firstPage & 63);
        while (word < lastWord)
        {
            Set(ref _words[word++], mask);
            mask = ulong.MaxValue;
        }

        Set(ref _words[word], mask & (ulong.MaxValue >> (63 - (int)(lastPage & 63))));
    }

    /// <summary>Whether a page is marked.</summary>
    /// <param name="offset">A byte of it.</param>
    /// <returns>True when it is.</returns>
    public bool IsMarked(PoolOffset offset)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(offset.Value, Length, nameof(offset));
        ulong page = offset.Value >> PageShift;
        return (Volatile.Read(ref _words[page >> 6]) >> (int)(page & 63) & 1) != 0;
    }

    /// <summary>Takes the marks: each is moved into <paramref name="into"/> and cleared here, in one step a word.</summary>
    /// <param name="into">At least <see cref="Words"/> words; marks are added to what is there.</param>
    public void Harvest(Span<ulong> into)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(into.Length, _words.Length, nameof(into));
        int i = 0;
        // Most words of a large pool are 0; four or eight are skipped at a time.
        if (Vector512.IsHardwareAccelerated)
        {
            for (; i <= _words.Length - Vector512<ulong>.Count; i += Vector512<ulong>.Count)
            {
                if (Vector512.LoadUnsafe(ref _words[i]) != Vector512<ulong>.Zero)
                {
                    Take(i, Vector512<ulong>.Count, into);
                }
            }
        }
        else if (Vector256.IsHardwareAccelerated)
        {
            for (; i <= _words.Length - Vector256<ulong>.Count; i += Vector256<ulong>.Count)
            {
                if (Vector256.LoadUnsafe(ref _words[i]) != Vector256<ulong>.Zero)
                {
                    Take(i, Vector256<ulong>.Count, into);
                }
            }
        }

        Take(i, _words.Length - i, into);
    }

    /// <summary>Copies the marks and clears none.</summary>
    /// <param name="into">At least <see cref="Words"/> words; marks are added to what is there.</param>
    public void Peek(Span<ulong> into)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(into.Length, _words.Length, nameof(into));
        for (int i = 0; i < _words.Length; i++)
        {
            into[i] |= Volatile.Read(ref _words[i]);
        }
    }

    /// <summary>Adds marks: what was harvested and could not be used goes back this way.</summary>
    /// <param name="words">As many words as <see cref="Words"/> at the most.</param>
    public void Merge(ReadOnlySpan<ulong> words)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(words.Length, _words.Length, nameof(words));
        for (int i = 0; i < words.Length; i++)
        {
            if (words[i] != 0)
            {
                Set(ref _words[i], words[i]);
            }
        }
    }

    /// <summary>Words of 64 bits for memory of a length.</summary>
    internal static ulong WordsFor(ulong length) => (((length - 1) >> PageShift) >> 6) + 1;

    /// <summary>Bits that are set.</summary>
    internal static ulong CountOf(ReadOnlySpan<ulong> words)
    {
        ulong count = 0;
        foreach (ulong word in words)
        {
            count += (ulong)BitOperations.PopCount(word);
        }

        return count;
    }

    // A bit that is set needs no locked instruction and no line of its own.
    private static void Set(ref ulong word, ulong mask)
    {
        if ((Volatile.Read(ref word) & mask) != mask)
        {
            Interlocked.Or(ref word, mask);
        }
    }

    private void Take(int first, int count, Span<ulong> into)
    {
        for (int i = first; i < first + count; i++)
        {
            if (Volatile.Read(ref _words[i]) != 0)
            {
                // ORDER: full fence; bytes are read for copying only after their bit is cleared, pairs with the marker's fence between
                // its bytes and its look at the bit.
                into[i] |= Interlocked.Exchange(ref _words[i], 0);
            }
        }
    }
}
