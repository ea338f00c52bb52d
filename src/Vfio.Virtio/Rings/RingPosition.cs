namespace Vfio.Virtio;

/// <summary>Where a ring goes on: the next buffer to take and the next to give back.</summary>
/// <param name="Avail">Split: the available index. Packed: slot in bits 0 to 14, wrap counter in bit 15.</param>
/// <param name="Used">The same of the used side.</param>
public readonly record struct RingPosition(ushort Avail, ushort Used)
{
    /// <summary>Where a new ring starts.</summary>
    /// <param name="features">What was negotiated: decides the layout.</param>
    /// <returns>The position.</returns>
    public static RingPosition Start(VirtioFeatures features) => features.HasFlag(VirtioFeatures.RingPacked)
        ? new RingPosition(PackedPosition.Start.Raw, PackedPosition.Start.Raw) : default;
}
