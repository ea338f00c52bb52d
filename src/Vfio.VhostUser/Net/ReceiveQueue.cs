using Vfio.Virtio;

namespace Vfio.VhostUser;

/// <summary>One running receive ring of a network device: frames into it, a batch at a time.</summary>
/// <remarks>For one thread at a time. No call waits, allocates, or throws for what the driver did.</remarks>
public abstract class ReceiveQueue : NetQueue
{
    private protected ReceiveQueue(VringConfiguration ring, NetQueueCounters counters)
        : base(ring, counters, BufferUse.OnlyWrites)
    {
    }

    /// <summary>Bytes of the longest frame without VLAN tags that the driver is given; of those that it cuts into segments itself, any.</summary>
    // Written by the session's thread while the poller reads it: each batch may see the former one.
    private protected int Longest { get; private set; } = int.MaxValue;

    /// <summary>Says what MTU the driver was told. It is held to only where VIRTIO_NET_F_MTU was negotiated.</summary>
    /// <param name="mtu">Bytes of a frame without its header.</param>
    public void SetMtu(int mtu) => Longest = Has(NetFeatures.Mtu) ? mtu + Frame.MinLength : int.MaxValue;

    /// <summary>Makes the queue for a ring that is to run.</summary>
    /// <param name="ring">The ring.</param>
    /// <param name="counters">Goes on counting.</param>
    /// <returns>The queue.</returns>
    public static ReceiveQueue Create(VringConfiguration ring, NetQueueCounters counters)
    {
        ArgumentNullException.ThrowIfNull(ring);
        return ring.Iotlb is { } iotlb
            ? new ReceiveQueue<IotlbTranslator>(ring, counters, new IotlbTranslator(iotlb))
            : new ReceiveQueue<GuestMemoryTranslator>(ring, counters, new GuestMemoryTranslator(ring.Memory));
    }

    /// <summary>Puts frames into the ring.</summary>
    /// <param name="batch">The frames; those that fit, and those that no buffer of this ring can ever hold, are taken from it.</param>
    /// <returns>Frames taken.</returns>
    public abstract int Enqueue(FrameBatch batch);
}
