namespace Vfio.Virtio;

/// <summary>The device's side of a split virtqueue (virtio 1.3, 2.7 "Split Virtqueues"). Made by
/// <see cref="DeviceQueue.Create"/>.</summary>
public abstract class SplitDeviceQueue : DeviceQueue
{
    private protected SplitDeviceQueue(int size, VirtioFeatures features)
        : base(size, features)
    {
    }

    /// <summary>Takes a chain again that an earlier device consumed and did not complete, by its head. It counts as consumed.</summary>
    /// <typeparam name="TTranslator">The translator, a struct.</typeparam>
    /// <param name="translator">Turns the chain's addresses into this process's.</param>
    /// <param name="head">The chain's <see cref="DescriptorChain.Id"/>. Checked.</param>
    /// <param name="chain">The chain, when the answer is true.</param>
    /// <param name="segments">Filled with its memory.</param>
    /// <returns>False at <see cref="DeviceQueue.Error"/> or <see cref="DeviceQueue.Missed"/>.</returns>
    public bool Resolve<TTranslator>(
        ref TTranslator translator, ushort head, out DescriptorChain chain, Span<HostSegment> segments)
        where TTranslator : struct, ITranslator =>
        this is SplitDeviceQueue<FlatRing> flat
            ? flat.ResolveHead(ref translator, head, out chain, segments)
            : ((SplitDeviceQueue<PagedRing>)this).ResolveHead(ref translator, head, out chain, segments);
}
