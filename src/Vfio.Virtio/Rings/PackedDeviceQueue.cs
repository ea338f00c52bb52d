namespace Vfio.Virtio;

/// <summary>The device's side of a packed virtqueue (virtio 1.3, 2.8 "Packed Virtqueues"). Made by
/// <see cref="DeviceQueue.Create"/>.</summary>
public abstract class PackedDeviceQueue : DeviceQueue
{
    private protected PackedDeviceQueue(int size, VirtioFeatures features)
        : base(size, features)
    {
    }

    /// <summary>A copy of a slot as it is now, for whoever records what is in flight.</summary>
    /// <param name="slot">0 to size - 1.</param>
    /// <returns>The descriptor.</returns>
    /// <exception cref="ArgumentOutOfRangeException">There is no such slot.</exception>
    public abstract PackedDescriptor ReadSlot(int slot);

    /// <summary>Takes a chain again that an earlier device consumed and did not complete, from a record of its descriptors: the
    /// ring's own may be overwritten. It counts as consumed.</summary>
    /// <typeparam name="TTranslator">The translator, a struct.</typeparam>
    /// <param name="translator">Turns the chain's addresses into this process's.</param>
    /// <param name="descriptors">All descriptors of the chain in the ring, in order. Checked.</param>
    /// <param name="chain">The chain, when the answer is true.</param>
    /// <param name="segments">Filled with its memory.</param>
    /// <returns>False at <see cref="DeviceQueue.Error"/> or <see cref="DeviceQueue.Missed"/>.</returns>
    public bool Resolve<TTranslator>(
        ref TTranslator translator,
        ReadOnlySpan<PackedDescriptor> descriptors,
        out DescriptorChain chain,
        Span<HostSegment> segments)
        where TTranslator : struct, ITranslator =>
        this is PackedDeviceQueue<FlatRing> flat
            ? flat.ResolveRecord(ref translator, descriptors, out chain, segments)
            : ((PackedDeviceQueue<PagedRing>)this).ResolveRecord(ref translator, descriptors, out chain, segments);
}
