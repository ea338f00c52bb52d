using Vfio.Linux;

namespace Vfio.Virtio;

/// <summary>The device's side of a virtqueue, in either layout. It works in batches:
/// <code>
/// int n = queue.Peek(ref translator, chains, segments);        // up to chains.Length chains, memory already translated
/// for (int i = 0; i &lt; n; i++) { used[i] = chains[i].Used(Process(chains[i], segments)); }
/// queue.Consume(chains[..n]);                                  // they are ours now (leave some out: they are peeked again)
/// queue.Complete(used[..n]);                                   // any order, any time later, unless IN_ORDER was negotiated
/// if (queue.Publish()) { call.Signal(); }                      // one release, one fence, one decision
/// if (queue.Error != RingError.None) { /* log, count, stop this queue */ }
/// </code></summary>
/// <remarks>
/// <para>Not thread-safe: one thread at a time. No call allocates, blocks, or throws for what the peer did.</para>
/// <para>The caller keeps the ring's memory mapped for as long as the queue is used, and the memory behind segments for the
/// batch: see <see cref="RingAddresses"/> for how much that is.</para>
/// <para>To go on where an earlier device stopped, give its <see cref="Position"/> to the new one. What was consumed and not completed
/// is lost to this object and can be taken again with <c>Resolve</c> of the layout.</para>
/// </remarks>
public abstract class DeviceQueue
{
    private bool _isAhead;

    private protected DeviceQueue(int size, VirtioFeatures features)
    {
        Size = size;
        Features = features;
        HasEventIndex = features.HasFlag(VirtioFeatures.RingEventIdx);
        HasIndirect = features.HasFlag(VirtioFeatures.RingIndirectDesc);
        IsInOrder = features.HasFlag(VirtioFeatures.InOrder);
    }

    /// <summary>Entries of the queue.</summary>
    public int Size { get; }

    /// <summary>What was negotiated.</summary>
    public VirtioFeatures Features { get; }

    /// <summary>What the device does with buffers.</summary>
    public BufferUse Use { get; private protected init; }

    /// <summary>How far from a chain's start the device begins to read: that line is fetched into the caches when the chain is looked at, and
    /// the first one of every further piece. A hint.</summary>
    public int PayloadOffset { get; private protected init; }

    /// <summary>What the peer did wrong; <see cref="RingError.None"/> while the queue is good. Stays: <see cref="Peek"/> returns
    /// nothing more. Chains that were consumed before can still be completed.</summary>
    public RingError Error { get; private protected set; }

    /// <summary>Where <see cref="Error"/> was found: the chain's <see cref="DescriptorChain.Position"/>.</summary>
    public ushort ErrorPosition { get; private protected set; }

    /// <summary>Whether the last <see cref="Peek"/> stopped at a chain whose translation is not known yet. The translator was
    /// asked for everything that the rest of that batch needs too.</summary>
    public bool Missed { get; private protected set; }

    /// <summary>Places in the ring consumed and not completed. At most <see cref="Size"/>.</summary>
    public int Outstanding { get; private protected set; }

    /// <summary>Where it stands: the next chain to take, and the next to give back; published up to here after <see cref="Publish"/>.</summary>
    public abstract RingPosition Position { get; }

    private protected bool HasEventIndex { get; }

    private protected bool HasIndirect { get; }

    private protected bool IsInOrder { get; }

    /// <summary>Takes the device's side of a ring.</summary>
    /// <param name="size">Entries, 1 to 32768; a power of two if split.</param>
    /// <param name="ring">Where it is.</param>
    /// <param name="features">What was negotiated: RING_PACKED decides the layout; RING_EVENT_IDX, RING_INDIRECT_DESC and IN_ORDER
    /// matter.</param>
    /// <param name="position">Where it goes on if another device had it before; null: it is new.</param>
    /// <param name="use">What the device does with buffers; others are an error.</param>
    /// <param name="payloadOffset">See <see cref="PayloadOffset"/>; at least 0.</param>
    /// <returns>The queue.</returns>
    /// <exception cref="ArgumentException">The size, the position or <paramref name="payloadOffset"/> is not valid, or a part of the ring not aligned or too short: see
    /// <see cref="RingAddresses.IsValidSize"/> and <see cref="RingAddresses.IsAligned"/>.</exception>
    public static DeviceQueue Create(
        int size, RingAddresses ring, VirtioFeatures features, RingPosition? position = null, BufferUse use = BufferUse.Both,
        int payloadOffset = 0)
    {
        ring.Check(size, features);
        ArgumentOutOfRangeException.ThrowIfNegative(payloadOffset);
        RingPosition start = position ?? RingPosition.Start(features);
        bool isPacked = features.HasFlag(VirtioFeatures.RingPacked);
        if (isPacked && (PackedPosition.FromRaw(start.Avail).Slot >= size || PackedPosition.FromRaw(start.Used).Slot >= size))
        {
            throw new ArgumentOutOfRangeException(nameof(position), start, $"a slot beyond the ring's {size}");
        }

        return ring.Areas is { } areas ? Over(new PagedRing(areas)) : Over(new FlatRing(ring));

        DeviceQueue Over<TRing>(TRing memory)
            where TRing : struct, IRingMemory => isPacked
                ? new PackedDeviceQueue<TRing>(size, memory, features, start) { Use = use, PayloadOffset = payloadOffset }
                : new SplitDeviceQueue<TRing>(size, memory, features, start) { Use = use, PayloadOffset = payloadOffset };
    }

    /// <summary>Takes a look at the next chains without consuming them. The peer's index is read once.</summary>
    /// <typeparam name="TTranslator">The translator, a struct.</typeparam>
    /// <param name="translator">Turns the chains' addresses into this process's.</param>
    /// <param name="chains">Filled from the front; its length is the largest batch (32 is a good one).</param>
    /// <param name="segments">Filled with the chains' memory, at most 65535. A single chain that does not fit is
    /// <see cref="RingError.TooManySegments"/>, so its length is the limit for a chain; a chain that does not fit behind others is
    /// left for the next batch.</param>
    /// <returns>How many chains. 0 when there are none, or at <see cref="Error"/> or <see cref="Missed"/>; chains before the faulty
    /// or missed one are returned.</returns>
    public int Peek<TTranslator>(
        ref TTranslator translator, Span<DescriptorChain> chains, Span<HostSegment> segments)
        where TTranslator : struct, ITranslator =>
        this switch
        {
            SplitDeviceQueue<FlatRing> split => split.PeekRing(ref translator, chains, segments),
            PackedDeviceQueue<FlatRing> packed => packed.PeekRing(ref translator, chains, segments),
            SplitDeviceQueue<PagedRing> split => split.PeekRing(ref translator, chains, segments),
            _ => ((PackedDeviceQueue<PagedRing>)this).PeekRing(ref translator, chains, segments),
        };

    /// <summary>As <see cref="Peek"/>, only for what the translator hears of it: what is wrong with a chain that is not due yet is no
    /// error before it is.</summary>
    /// <typeparam name="TTranslator">The translator, a struct.</typeparam>
    /// <param name="translator">Hears of what is missing.</param>
    /// <param name="chains">Scratch; its length is how far to look.</param>
    /// <param name="segments">Scratch.</param>
    public void LookAhead<TTranslator>(ref TTranslator translator, Span<DescriptorChain> chains, Span<HostSegment> segments)
        where TTranslator : struct, ITranslator
    {
        _isAhead = true;
        Peek(ref translator, chains, segments);
        _isAhead = false;
    }

    /// <summary>Makes everything completed visible without asking whether the driver wants to be notified: a driver that polls
    /// works on it while the rest of the batch is made. <see cref="Publish"/> must follow.</summary>
    internal abstract void Reveal();

    /// <summary>Names the cache lines that giving back the next chains will write.</summary>
    /// <param name="count">How many chains, of one slot each.</param>
    /// <param name="lines">Where to.</param>
    internal abstract void AddUsedLines(int count, ref CacheLines lines);

    /// <summary>Takes chains for good: the next <see cref="Peek"/> starts after them.</summary>
    /// <param name="chains">The first chains of the last <see cref="Peek"/>, all or fewer.</param>
    public abstract void Consume(ReadOnlySpan<DescriptorChain> chains);

    /// <summary>Gives chains back as used. The driver sees them after the next <see cref="Publish"/>.</summary>
    /// <param name="used">Consumed chains. With IN_ORDER in the order in which they were consumed.</param>
    public abstract void Complete(ReadOnlySpan<UsedChain> used);

    /// <summary>As <see cref="Complete"/>, for chains that have no device-writable part. Where IN_ORDER allows it (packed layout),
    /// the whole batch is one used descriptor.</summary>
    /// <param name="used">Consumed chains, in the order in which they were consumed, with nothing written.</param>
    public virtual void CompleteReadOnly(ReadOnlySpan<UsedChain> used) => Complete(used);

    /// <summary>Makes everything completed visible to the driver.</summary>
    /// <returns>Whether the driver wants to be notified (called) of it. False when there was nothing to publish.</returns>
    public abstract bool Publish();

    /// <summary>Asks the driver to notify (kick) when it makes the next chain available.</summary>
    /// <returns>True when there is one already: no notification may come for it, so poll again before sleeping.</returns>
    public abstract bool EnableNotifications();

    /// <summary>Tells the driver that notifications are not needed. Advice: some may come.</summary>
    public abstract void DisableNotifications();

    private protected void Fail(RingError error, ushort position)
    {
        Error = error;
        ErrorPosition = position;
    }

    // Of a chain behind others that filled so many segments. What only lacks room is left for the next batch. A fault behind a miss is
    // left alone: the chains before it come again, and by then it may be mended or not.
    private protected void FailUnlessLeft(RingError error, ushort position, int segments)
    {
        if (!Missed && !_isAhead && (error != RingError.TooManySegments || segments == 0))
        {
            Fail(error, position);
        }
    }
}
