using Vfio.Virtio;

namespace Vfio.VhostUser;

/// <summary>Where a ring goes on: the next buffer to take and the next to give back.</summary>
/// <param name="Avail">Split: the available index. Packed: slot in bits 0 to 14, wrap counter in bit 15.</param>
/// <param name="Used">The same of the used side.</param>
public readonly record struct VringPosition(ushort Avail, ushort Used)
{
    /// <summary>Reads a vring base as the protocol carries it. Buffers in between are in flight; without a record of them there
    /// are none, as this back-end uses buffers in order, so the used side stands where the available side does.</summary>
    /// <param name="number">The number in SET_VRING_BASE.</param>
    /// <returns>The position.</returns>
    public static VringPosition FromBase(uint number)
    {
        ushort avail = (ushort)(number & 0xFFFF);
        return new VringPosition(avail, avail);
    }

    /// <summary>The number for GET_VRING_BASE. For a packed ring the used side stands in the upper half: QEMU reads it there.</summary>
    /// <param name="features">What was negotiated: decides the layout.</param>
    /// <returns>The number.</returns>
    public uint ToBase(VirtioFeatures features) =>
        features.HasFlag(VirtioFeatures.RingPacked) ? Avail | ((uint)Used << 16) : Avail;
}
