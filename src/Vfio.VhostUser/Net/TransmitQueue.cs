using Vfio.Virtio;

namespace Vfio.VhostUser;

/// <summary>One running transmit ring of a network device: frames out of it, a batch at a time.</summary>
/// <remarks>For one thread at a time. No call waits, allocates, or throws for what the driver did.</remarks>
public abstract class TransmitQueue : NetQueue
{
    private protected TransmitQueue(VringConfiguration ring, NetQueueCounters counters)
        : base(ring, counters, BufferUse.OnlyReads)
    {
    }

    /// <summary>How many segments those chains have that are done with and were not shown to the driver yet.</summary>
    private protected int Held { get; set; }

    /// <summary>Makes the queue for a ring that is to run.</summary>
    /// <param name="ring">The ring.</param>
    /// <param name="counters">Goes on counting.</param>
    /// <returns>The queue.</returns>
    public static TransmitQueue Create(VringConfiguration ring, NetQueueCounters counters)
    {
        ArgumentNullException.ThrowIfNull(ring);
        return ring.Iotlb is { } iotlb
            ? new TransmitQueue<IotlbTranslator>(ring, counters, new IotlbTranslator(iotlb))
            : new TransmitQueue<GuestMemoryTranslator>(ring, counters, new GuestMemoryTranslator(ring.Memory));
    }

    /// <summary>Takes frames out of the ring. Buffers of full batches are held back: the driver learns that they are its own again
    /// when they make 256 descriptors or leave it no more than 64, with the next batch that is not full, or when calls have found nothing
    /// for 2 microseconds; and at once by <see cref="Settle"/>, <see cref="Discard"/> and <see cref="NetQueue.EnableNotifications"/>.</summary>
    /// <param name="batch">Empty; filled.</param>
    /// <returns>Buffers taken from the ring; more than frames where some were dropped.</returns>
    public abstract int Dequeue(FrameBatch batch);

    /// <summary>Takes buffers out of the ring and drops what is in them.</summary>
    /// <returns>How many.</returns>
    public abstract int Discard();

    /// <summary>Does what earlier batches left to later ones, where none may come: shows the driver the buffers that were held back,
    /// and makes the call that found no room. Cheap when there is nothing.</summary>
    public sealed override void Settle()
    {
        if (Held != 0)
        {
            Show([]);
        }
        else
        {
            base.Settle();
        }
    }

    /// <summary>Shows the driver everything that was used.</summary>
    /// <param name="used">The batch, where a record of what is in flight must learn of it.</param>
    private protected void Show(ReadOnlySpan<UsedChain> used)
    {
        Held = 0;
        Publish(used);
    }
}
