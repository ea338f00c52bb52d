namespace Vfio.Virtio;

/// <summary>A piece of a chain's memory that lies together in this process.</summary>
/// <param name="Address">Its first byte.</param>
/// <param name="Length">Bytes, at least 1.</param>
/// <remarks>The peer can change these bytes at any time: copy, then check, then use the copy. Valid until the translator's memory
/// is revoked, thus within the batch.</remarks>
public readonly unsafe record struct HostSegment(HostAddress Address, uint Length)
{
    /// <summary>The first byte as a pointer, for the datapath.</summary>
    // SAFETY: the translator vouched for [Address, Address + Length) until the end of the batch.
    public byte* Base => (byte*)Address.Value;

    /// <summary>The bytes.</summary>
    /// <exception cref="OverflowException">More than <see cref="int.MaxValue"/> bytes.</exception>
    // SAFETY: as above.
    public Span<byte> Span => new((byte*)Address.Value, checked((int)Length));
}
