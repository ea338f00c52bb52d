using System.Runtime.CompilerServices;
using Vfio.Linux;

namespace Vfio.Virtio;

/// <summary>The decision whether the peer wants a notification, the same for both sides.</summary>
internal static class EventIndex
{
    /// <summary>Split: whether the step from <paramref name="previous"/> to <paramref name="next"/> passed the position that the
    /// peer asked for. All three wrap (virtio 1.3, 2.7.7.2 and 2.7.10, "need event").</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Crossed(ushort wanted, ushort next, ushort previous) =>
        unchecked((ushort)(next - wanted - 1) < (ushort)(next - previous));

    /// <summary>Packed: whether the peer wants to hear of the <paramref name="count"/> slots up to <paramref name="next"/>
    /// (virtio 1.3, 2.8.10 "Event Suppression Structure Format").</summary>
    /// <param name="suppression">The peer's structure: offset and wrap counter below, flags above.</param>
    /// <param name="next">Our position after what was published.</param>
    /// <param name="count">Slots published.</param>
    /// <param name="size">Slots of the ring.</param>
    /// <param name="hasEventIndex">Whether RING_EVENT_IDX was negotiated.</param>
    public static bool CrossedPacked(uint suppression, PackedPosition next, int count, int size, bool hasEventIndex)
    {
        uint flags = (suppression >> 16) & 3;
        if (flags == virtio_ring.VRING_PACKED_EVENT_FLAG_DISABLE)
        {
            return false;
        }

        if (flags != virtio_ring.VRING_PACKED_EVENT_FLAG_DESC || !hasEventIndex)
        {
            return true;
        }

        var wanted = PackedPosition.FromRaw((ushort)(suppression & 0xFFFF));
        // Slots of the pass before ours lie one ring length back.
        int slot = wanted.Wrap == next.Wrap ? wanted.Slot : wanted.Slot - size;
        return unchecked((ushort)(next.Slot - slot - 1) < (ushort)count);
    }
}
