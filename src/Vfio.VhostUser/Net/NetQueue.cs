using Vfio.Virtio;

namespace Vfio.VhostUser;

/// <summary>One running ring of a network device: what <see cref="TransmitQueue"/> and <see cref="ReceiveQueue"/> have in common.</summary>
/// <remarks>For one thread at a time. No call waits, allocates, or throws for what the driver did; <see cref="TakeAnswers"/> may do the
/// first two, for what the front-end changed.</remarks>
public abstract class NetQueue
{
    private bool _mustCall;
    private bool _reported;
    private bool _signalled;

    private protected NetQueue(VringConfiguration ring, NetQueueCounters counters, BufferUse use)
    {
        Ring = ring;
        Counters = counters;
        // virtio 1.3, 5.1.6.1 "Legacy Interface: Device Operation".
        HeaderLength = ring.Features.HasFlag(VirtioFeatures.Version1) || Has(NetFeatures.MrgRxbuf)
            ? NetHeader.Bytes : NetHeader.LegacyBytes;
        Queue = DeviceQueue.Create(ring.Size, ring.Addresses, ring.Features, ring.Position, use, HeaderLength);
        Log = ring.Log is null ? null : new RingLog(ring);
        // Who had the ring before may have shown buffers and not made the call for them any more.
        _mustCall = ring.Position != RingPosition.Start(ring.Features);
    }

    /// <summary>The ring.</summary>
    public VringConfiguration Ring { get; }

    /// <summary>What happened on it.</summary>
    public NetQueueCounters Counters { get; }

    /// <summary>What the driver did wrong; it stays, and the ring is dead until it is set up anew.</summary>
    public RingError Error => Queue.Error;

    /// <summary>Whether the last batch ended at buffers of which the front-end has to tell where they are: nothing is wrong, and the next
    /// batch may find the answer.</summary>
    public bool LacksTranslation => Ring.Iotlb is { HasMissed: true };

    /// <summary>Whether <see cref="TakeAnswers"/> is due before the next batch.</summary>
    public bool AreAnswersAwaited => Ring.Iotlb is { AreAnswersAwaited: true };

    /// <summary>Where in the ring that was.</summary>
    public int ErrorPosition => Queue.ErrorPosition;

    /// <summary>Where it stands.</summary>
    public RingPosition Position => Queue.Position;

    private protected DeviceQueue Queue { get; }

    private protected RingLog? Log { get; }

    private protected int HeaderLength { get; }

    /// <summary>Whether the driver is shown whole batches only: the dirty log is written before it sees what was, and the record of what
    /// is in flight knows no less.</summary>
    private protected bool ShowsBatches => Ring.Inflight is not null || Log is not null;

    /// <summary>Takes the front-end's answers about translations, between two batches: the thread's <see cref="GracePeriodReader"/> is
    /// parked. The ring itself, and memory, are not touched.</summary>
    /// <param name="round">Another number in each of the thread's rounds over all its queues, 0 or more.</param>
    /// <returns>Whether there were any.</returns>
    public bool TakeAnswers(long round) => Ring.Iotlb is { } iotlb && iotlb.TakeAnswers(round);

    /// <summary>Does what earlier batches left to later ones, where none may come: makes the call that found no room. Cheap when there is
    /// none.</summary>
    public virtual void Settle()
    {
        if (_mustCall)
        {
            Call();
        }
    }

    /// <summary>Asks the driver to kick when there is more. Whatever was left to later batches is done first, as by
    /// <see cref="Settle"/>: none may come.</summary>
    /// <returns>True when there is more already, or no kick will come. Chains that a predecessor left are more: no kick tells that they
    /// can be translated.</returns>
    public bool EnableNotifications()
    {
        Settle();
        bool more = Queue.EnableNotifications();
        Log?.MarkUsed();
        return more || Ring.MustPoll || Ring.Inflight is { HasPending: true };
    }

    /// <summary>Tells the driver that kicks are not needed.</summary>
    public void DisableNotifications()
    {
        Queue.DisableNotifications();
        Log?.MarkUsed();
    }

    /// <summary>Counts <see cref="Error"/> and tells the front-end about it, the first time; where that found no room, each later
    /// call tries to tell it until one does.</summary>
    /// <returns>True the first time.</returns>
    public bool TryReport()
    {
        if (Error == RingError.None)
        {
            return false;
        }

        _signalled = _signalled || Ring.Error is not { } error || error.TrySignal();
        if (_reported)
        {
            return false;
        }

        _reported = true;
        Counters.Break(Error);
        return true;
    }

    /// <summary>Shows the driver what was used, and calls it if it wants that.</summary>
    /// <param name="used">The batch, where a record of what is in flight must learn of it.</param>
    private protected void Publish(ReadOnlySpan<UsedChain> used)
    {
        bool mustCall = Queue.Publish();
        Ring.Inflight?.Commit(used);
        Log?.MarkUsed();
        if (mustCall || _mustCall)
        {
            Call();
        }
    }

    private protected bool Has(NetFeatures feature) => ((ulong)Ring.Features & (ulong)feature) != 0;

    private void Call()
    {
        if (Ring.Call is { } call)
        {
            // Without room the call is owed: the next batch or Settle makes it.
            _mustCall = !call.TrySignal();
            Counters.Calls += _mustCall ? 0 : 1;
        }
    }
}
