using Vfio.Virtio;

namespace Vfio.VhostUser;

/// <summary>What one ring's device has taken and not given back, in memory that outlives it. It is shared: nothing read from it is
/// believed before it was checked, and nothing is read from it again once the ring runs.</summary>
/// <remarks>For the thread that polls the ring, in this order for a batch: <see cref="Take"/>, the queue's Consume and Complete,
/// <see cref="Use"/>, Publish, <see cref="Commit"/>. A death between any two of them leaves a state that <see cref="Recover"/> can tell.</remarks>
public abstract class InflightRecord
{
    private protected InflightRecord(int size) => Size = size;

    /// <summary>Whether an earlier device left buffers that must be resubmitted before others are taken.</summary>
    public abstract bool HasPending { get; }

    private protected int Size { get; }

    // An index from the record that was checked to be below Size, harmless in mispredicted execution too.
    private protected ushort Clamped(ushort index) => (ushort)Speculation.Clamp(index, (ulong)Size - 1);

    /// <summary>Reads what an earlier device left, or makes the record anew.</summary>
    /// <param name="ring">The ring, whose own state is held against the record.</param>
    /// <param name="start">Where the front-end says that the ring stands; used where the record knows nothing.</param>
    /// <param name="doubt">Why the record was not believed; null when it was.</param>
    /// <returns>Where the ring goes on.</returns>
    internal abstract RingPosition Recover(RingAddresses ring, RingPosition start, out string? doubt);

    /// <summary>Takes the next buffer that an earlier device left, in the order in which they were made available.</summary>
    internal abstract bool Resubmit<TTranslator>(
        DeviceQueue queue, ref TTranslator translator, out DescriptorChain chain, Span<HostSegment> segments)
        where TTranslator : struct, ITranslator;

    /// <summary>Records that buffers are taken.</summary>
    internal abstract void Take(DeviceQueue queue, ReadOnlySpan<DescriptorChain> chains);

    /// <summary>Records that the batch is about to be shown as used.</summary>
    internal abstract void Use(ReadOnlySpan<UsedChain> used);

    /// <summary>Records that the driver has the batch.</summary>
    internal abstract void Commit(ReadOnlySpan<UsedChain> used);
}
