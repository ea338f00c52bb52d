using System.Runtime.CompilerServices;

namespace Vfio.Virtio;

/// <summary>A chain that a device queue took from its ring: which segments of the batch's buffer are its memory. All
/// device-readable segments come before all device-writable ones.</summary>
public readonly record struct DescriptorChain
{
    // Packed by hand: so many stores less in the ring's innermost loop, where the processor can look ahead as far as it has room for
    // stores.
    private readonly ulong _place;
    private readonly uint _counts;

    internal DescriptorChain(
        ushort id, ushort slots, ChainPlace place, ushort readable, ushort count, ulong readableLength, ulong writableLength)
    {
        _place = id | ((ulong)slots << 16) | place.Word;
        _counts = readable | ((uint)count << 16);
        ReadableLength = readableLength;
        WritableLength = writableLength;
    }

    /// <summary>A chain of one buffer in one piece.</summary>
    /// <typeparam name="TAccess">What the device does with it.</typeparam>
    /// <param name="id">See <see cref="Id"/>.</param>
    /// <param name="place">Where it is.</param>
    /// <param name="length">Bytes.</param>
    /// <returns>The chain.</returns>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static DescriptorChain OfOne<TAccess>(ushort id, ChainPlace place, uint length)
        where TAccess : struct, IBufferAccess => TAccess.Access == DeviceAccess.Write
            ? new DescriptorChain(id, 1, place, 0, 1, 0, length)
            : new DescriptorChain(id, 1, place, 1, 1, length, 0);

    /// <summary>What names the chain to the driver: the head's index in the descriptor table (split), the buffer id (packed; any
    /// 16 bits, the driver chose it).</summary>
    public ushort Id => unchecked((ushort)_place);

    /// <summary>Places that it takes in the ring: 1 (split), descriptors in the ring (packed).</summary>
    public ushort Slots => unchecked((ushort)(_place >> 16));

    /// <summary>Split: the available index that it was at. Packed: the slot of its first descriptor.</summary>
    public ushort Position => unchecked((ushort)(_place >> 32));

    /// <summary>Its first segment in the batch's buffer.</summary>
    public ushort First => (ushort)(_place >> 48);

    /// <summary>How many segments the device may read; they come first.</summary>
    public ushort ReadableCount => unchecked((ushort)_counts);

    /// <summary>How many segments it has.</summary>
    public ushort Count => (ushort)(_counts >> 16);

    /// <summary>Bytes that the device may read.</summary>
    public ulong ReadableLength { get; }

    /// <summary>Bytes that the device may write.</summary>
    public ulong WritableLength { get; }

    /// <summary>The device-readable part.</summary>
    /// <param name="segments">The buffer that the batch was taken with.</param>
    /// <returns>Its segments.</returns>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public ReadOnlySpan<HostSegment> Readable(ReadOnlySpan<HostSegment> segments) => segments.Slice(First, ReadableCount);

    /// <summary>The device-writable part.</summary>
    /// <param name="segments">The buffer that the batch was taken with.</param>
    /// <returns>Its segments.</returns>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public ReadOnlySpan<HostSegment> Writable(ReadOnlySpan<HostSegment> segments) =>
        segments.Slice(First + ReadableCount, Count - ReadableCount);

    /// <summary>The chain as used.</summary>
    /// <param name="written">Bytes that the device wrote, from the first writable byte on without gaps.</param>
    /// <returns>What <see cref="DeviceQueue.Complete"/> takes.</returns>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public UsedChain Used(uint written) => new(Id, Slots, written);
}
