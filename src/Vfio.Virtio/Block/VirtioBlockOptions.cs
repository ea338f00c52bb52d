namespace Vfio.Virtio;

/// <summary>How a block device is driven.</summary>
public sealed record VirtioBlockOptions
{
    /// <summary>Requests in flight at most, 1 to 1024.</summary>
    public int Depth { get; init; } = 32;

    /// <summary>Sleep until the device interrupts (MSI-X) instead of polling for completions.</summary>
    public bool UseInterrupts { get; init; }

    /// <summary>How long the device may take for a request before it counts as hung.</summary>
    public TimeSpan Timeout { get; init; } = TimeSpan.FromSeconds(30);

    /// <summary>Ring features to ask for. What the device lacks is done without.</summary>
    public VirtioFeatures RingFeatures { get; init; } =
        VirtioFeatures.RingEventIdx | VirtioFeatures.RingIndirectDesc | VirtioFeatures.RingPacked;

    /// <summary>Told of every range that the device has written when its completion is seen: data, status bytes and its part of
    /// the ring. Called on the thread that polls.</summary>
    public Action<IovaRange>? DeviceWrote { get; init; }

    /// <summary>Bytes of pinned memory that the driver needs for its queue and request headers, aligned to 128.</summary>
    public int ArenaBytes
    {
        get
        {
            Check();
            return QueueBytes + (Depth * BlockRequest.ArenaBytes);
        }
    }

    /// <summary>Pieces that a request may have: header, data and status.</summary>
    internal const int ChainLength = 2 + MaxDataSegments;

    /// <summary>Pieces of data that a request is cut into at most, where the device limits the size of one.</summary>
    internal const int MaxDataSegments = 30;

    // A queue that holds the depth by indirect tables, and at least one request of the longest kind without them.
    internal int QueueSize =>
        (int)System.Numerics.BitOperations.RoundUpToPowerOf2((uint)Math.Max(Depth, ChainLength));

    // For either layout: the split one is the larger.
    internal int QueueBytes => DriverQueue.BytesFor(QueueSize, VirtioFeatures.RingIndirectDesc, ChainLength);

    internal void Check()
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(Depth, 1);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(Depth, 1024);
    }
}
