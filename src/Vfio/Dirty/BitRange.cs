namespace Vfio;

/// <summary>Sets runs of bits in words that nobody else writes.</summary>
internal static class BitRange
{
    public static void Set(Span<ulong> words, ulong first, ulong count)
    {
        ulong last = first + count - 1;
        int word = (int)(first >> 6);
        int lastWord = (int)(last >> 6);
        ulong mask = ulong.MaxValue << (int)(first & 63);
        while (word < lastWord)
        {
            words[word++] |= mask;
            mask = ulong.MaxValue;
        }

        words[word] |= mask & (ulong.MaxValue >> (63 - (int)(last & 63)));
    }
}
