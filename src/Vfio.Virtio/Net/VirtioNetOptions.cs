using System.Numerics;

namespace Vfio.Virtio;

/// <summary>How a network device is driven.</summary>
public sealed record VirtioNetOptions
{
    /// <summary>Bytes between the starts of buffers are a multiple of this, so that two share no cache line.</summary>
    internal const int BufferAlignment = 64;

    private const int PageBytes = 4096;

    /// <summary>Entries of each queue at most, a power of two from 2 to 32768; a device may have fewer.</summary>
    public int QueueSize { get; init; } = 256;

    /// <summary>Bytes of a buffer, with the header of 12 bytes: a multiple of 64 from 128 to 65536. Where a frame does not fit into
    /// one, the device must have MRG_RXBUF.</summary>
    public int BufferBytes { get; init; } = 2048;

    /// <summary>Buffers beyond those that the queues hold: as many as the caller may have in its hands while both are full.</summary>
    public int SpareBuffers { get; init; } = 64;

    /// <summary>Ring features to ask for. What the device lacks is done without.</summary>
    public VirtioFeatures RingFeatures { get; init; } =
        VirtioFeatures.RingEventIdx | VirtioFeatures.RingPacked | VirtioFeatures.InOrder;

    /// <summary>Whether frames may lie in several buffers, where the device can do that.</summary>
    public bool MergeBuffers { get; init; } = true;

    /// <summary>Told of every range that the device has written when that is seen: frames and its parts of the rings. Called on the
    /// thread that receives and sends.</summary>
    public Action<IovaRange>? DeviceWrote { get; init; }

    /// <summary>Told of every range of buffers that this driver sends, with the header that it wrote. Called on the thread that sends.</summary>
    public Action<IovaRange>? DriverSent { get; init; }

    /// <summary>Bytes at the arena's start that hold the queues, whole pages; buffers follow.</summary>
    public int RingBytes
    {
        get
        {
            Check();
            return ((2 * QueueBytes) + PageBytes - 1) & ~(PageBytes - 1);
        }
    }

    /// <summary>Bytes of pinned memory that the driver needs for its queues and buffers, aligned to 128; aligned to a page no
    /// buffer of 2048 bytes crosses one.</summary>
    public int ArenaBytes
    {
        get
        {
            Check();
            return checked(RingBytes + (BufferCount * BufferBytes));
        }
    }

    internal int BufferCount => (2 * QueueSize) + SpareBuffers;

    // For either layout: the split one is the larger.
    internal int QueueBytes => (DriverQueue.BytesFor(QueueSize, VirtioFeatures.None, 0) + 127) & ~127;

    internal void Check()
    {
        if (QueueSize is < 2 or > RingAddresses.MaxSize || !BitOperations.IsPow2(QueueSize))
        {
            throw new ArgumentOutOfRangeException(nameof(QueueSize), QueueSize, "a power of two from 2 to 32768");
        }

        if (BufferBytes is < 128 or > 65536 || BufferBytes % BufferAlignment != 0)
        {
            throw new ArgumentOutOfRangeException(nameof(BufferBytes), BufferBytes, "a multiple of 64 from 128 to 65536");
        }

        ArgumentOutOfRangeException.ThrowIfLessThan(SpareBuffers, 1);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(SpareBuffers, 1 << 16);
    }
}
