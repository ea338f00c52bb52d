namespace Vfio.Virtio;

/// <summary>Where a chain is: in the ring, and in the batch's buffer. As <see cref="DescriptorChain"/> holds it, so that in a run of
/// chains of one segment and one place each the next is one addition away.</summary>
internal readonly struct ChainPlace
{
    private const int PositionShift = 32;
    private const int SegmentShift = 48;

    private ChainPlace(ulong word) => Word = word;

    /// <summary>A place.</summary>
    /// <param name="position">See <see cref="DescriptorChain.Position"/>.</param>
    /// <param name="segment">See <see cref="DescriptorChain.First"/>.</param>
    internal ChainPlace(ushort position, ushort segment) =>
        Word = ((ulong)position << PositionShift) | ((ulong)segment << SegmentShift);

    /// <summary>The segment in bits 48 to 63, the position in bits 32 to 47, and nothing below.</summary>
    internal ulong Word { get; }

    /// <summary>The next place and the next segment. Behind position or segment 65535 it is no place, and not to be used.</summary>
    internal ChainPlace Next => new(unchecked(Word + (1ul << PositionShift) + (1ul << SegmentShift)));
}
