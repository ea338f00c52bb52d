namespace Vfio.Virtio;

/// <summary>A place in a packed ring: a slot, and the wrap counter with which it is reached.</summary>
/// <param name="Slot">0 to queue size - 1.</param>
/// <param name="Wrap">True on the first pass over the ring, then alternating.</param>
public readonly record struct PackedPosition(ushort Slot, bool Wrap)
{
    /// <summary>Where both sides of a new ring start.</summary>
    public static PackedPosition Start => new(0, true);

    /// <summary>As in event suppression and in vhost-user's vring base: slot in bits 0 to 14, wrap counter in bit 15.</summary>
    public ushort Raw => (ushort)(Slot | (Wrap ? 0x8000 : 0));

    /// <summary>Reads the 16-bit form. The slot is not checked.</summary>
    /// <param name="raw">Slot and wrap counter.</param>
    /// <returns>The position.</returns>
    public static PackedPosition FromRaw(ushort raw) => new((ushort)(raw & 0x7FFF), (raw & 0x8000) != 0);

    // count is at most size.
    internal PackedPosition Advance(int count, int size)
    {
        int slot = Slot + count;
        return slot < size ? new((ushort)slot, Wrap) : new((ushort)(slot - size), !Wrap);
    }
}
