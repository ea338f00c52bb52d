using System.Diagnostics;
using Vfio.VhostUser;

namespace Vfio.Service;

/// <summary>Moves frames one way: from one transmit ring to one receive ring, through the buffers of a batch.</summary>
/// <remarks>For one poller. Frames that find no buffer wait in the batch, and the transmit ring with them, so that a guest that
/// is only slow loses none; one that takes nothing for a while is not waited for any more.</remarks>
internal sealed class NetLane : IPollable, IDisposable
{
    private readonly ForwardMode _mode;
    private readonly NetPort _source;
    private readonly int _pair;
    private readonly FrameBatch _batch;
    private readonly int _frameSize;
    private LanePatience _patience;
    private bool _hasFailed;

    // Of generated frames: for the buffers that the guest gave, which are then no reason to stay awake.
    private bool _isTooLarge;

    /// <summary>Makes the lane.</summary>
    /// <param name="source">The port that frames come from, which says what is done with them and where they go.</param>
    /// <param name="pair">Which pair of queues, the same on both sides.</param>
    /// <param name="pool">Where the buffers are.</param>
    public NetLane(NetPort source, int pair, PinnedPool pool)
    {
        _mode = source.Options.Mode;
        _source = source;
        _pair = pair;
        _frameSize = source.Options.FrameSize;
        _batch = new FrameBatch(pool);
    }

    /// <inheritdoc/>
    public bool HasWorkWhileParked => !_hasFailed
        && (_source.Transmit(_pair) is { AreAnswersAwaited: true } || Destination is { AreAnswersAwaited: true });

    private ReceiveQueue? Destination => _mode == ForwardMode.TxOnly ? _source.Receive(_pair) : _source.Target?.Receive(_pair);

    /// <inheritdoc/>
    // ORDER: acquire; pairs with the release in Restart, behind which the batch is empty.
    public bool PollOnce() => !Volatile.Read(ref _hasFailed) && _mode switch
    {
        ForwardMode.RxOnly => Receive(),
        ForwardMode.TxOnly => Generate() | Receive(),
        _ => Forward(),
    };

    /// <inheritdoc/>
    public bool WorkWhileParked(long round) => !_hasFailed
        && (_source.Transmit(_pair)?.TakeAnswers(round) ?? false) | (Destination?.TakeAnswers(round) ?? false);

    /// <inheritdoc/>
    public bool EnableNotifications()
    {
        if (_hasFailed)
        {
            return false;
        }

        // What is left of generated frames is no reason to stay awake: the guest's buffers are.
        return (_mode != ForwardMode.TxOnly && _batch.Count != 0)
            | HasWorkWhileParked
            | MustStay(_source.Transmit(_pair))
            | (_mode == ForwardMode.TxOnly && _source.Receive(_pair) is { Ring.Enabled: true } receive && MustStay(receive) && !_isTooLarge);
    }

    /// <inheritdoc/>
    public void DisableNotifications()
    {
        if (_hasFailed)
        {
            return;
        }

        _source.Transmit(_pair)?.DisableNotifications();
        if (_mode == ForwardMode.TxOnly)
        {
            _source.Receive(_pair)?.DisableNotifications();
        }
    }

    /// <inheritdoc/>
    // What it was at may be half done: in the batch, in the ring that it takes from, in the one that it gives to. Nobody may go on with
    // them, and both front-ends meet the port anew.
    public void Fail(Exception fault)
    {
        // ORDER: release of everything that this thread did to the batch; pairs with the acquire in Restart.
        Volatile.Write(ref _hasFailed, true);
        _source.Fail(fault);
        if (_source.Target is { } target && target != _source)
        {
            target.Fail(fault);
        }
    }

    /// <summary>Begins anew after <see cref="Fail"/>, for a session that has no rings yet.</summary>
    public void Restart()
    {
        // ORDER: acquire; pairs with the release in Fail, since which the poller does not touch the batch.
        if (Volatile.Read(ref _hasFailed))
        {
            _batch.Clear();
            _patience = default;
            // ORDER: release of the empty batch; pairs with the acquire in PollOnce.
            Volatile.Write(ref _hasFailed, false);
        }
    }

    public void Dispose() => _batch.Dispose();

    private bool Receive()
    {
        TransmitQueue? transmit = _source.Transmit(_pair);
        if (transmit is null)
        {
            return false;
        }

        if (_mode == ForwardMode.TxOnly)
        {
            // What a guest sends by itself (its own announcements) must not fill its ring.
            bool anything = transmit.Discard() != 0;
            Check(_source, transmit);
            return anything;
        }

        bool any = Fill(transmit);
        _batch.Clear();
        return any;
    }

    private bool Generate()
    {
        if (_source.Receive(_pair) is not { Ring.Enabled: true } receive)
        {
            return false;
        }

        // The same frames every time: they are not changed, so they stay where they are.
        if (_batch.Count == 0)
        {
            TestFrames.Fill(_batch, _frameSize);
        }

        long before = receive.Counters.Frames;
        int taken = receive.Enqueue(_batch);
        _batch.Refill();
        Check(_source, receive);
        bool any = receive.Counters.Frames != before;
        _isTooLarge = taken != 0 && !any;
        return any;
    }

    private bool Forward()
    {
        bool any = false;
        NetPort? target = _source.Target;
        if (_batch.Count != 0)
        {
            // Nothing more is taken from it meanwhile, and what it gives back may be what the guest waits for.
            _source.Transmit(_pair)?.Settle();
        }
        else
        {
            if (_source.Transmit(_pair) is not { } transmit || !Fill(transmit))
            {
                target?.Receive(_pair)?.Settle();
                return false;
            }

            any = true;
            if (_mode == ForwardMode.MacSwap)
            {
                MacAddresses.Swap(_batch.Frames);
            }
        }

        return Deliver(target) || any;
    }

    private bool Fill(TransmitQueue transmit)
    {
        int taken = transmit.Ring.Enabled ? transmit.Dequeue(_batch) : transmit.Discard();
        Check(_source, transmit);
        return taken != 0;
    }

    private bool Deliver(NetPort? target)
    {
        if (_batch.Count == 0)
        {
            return false;
        }

        if (target is null)
        {
            return Drop(_source.Counters[(2 * _pair) + 1]);
        }

        ReceiveQueue? receive = target.Receive(_pair);
        if (receive is { Ring.Enabled: false } or { Error: not Virtio.RingError.None })
        {
            // The front-end may not have been told of an error yet.
            Check(target, receive);
            return Drop(target.Counters[2 * _pair]);
        }

        int taken = 0;
        if (receive is not null)
        {
            taken = receive.Enqueue(_batch);
            Check(target, receive);
        }

        if (taken != 0 || _batch.Count == 0)
        {
            _patience = default;
            return true;
        }

        // No buffer; or no ring, which also happens for a moment while the front-end changes something that it depends on: a Linux guest
        // revokes everything its IOMMU allowed, its rings included, every few milliseconds.
        return _patience.Try(Stopwatch.GetTimestamp(), receive is { LacksTranslation: true })
            && Drop(target.Counters[2 * _pair], isGivenUp: true);
    }

    private bool Drop(NetQueueCounters counters, bool isGivenUp = false)
    {
        // What was given up stays so until frames are taken again.
        _patience = isGivenUp ? _patience : default;
        counters.DroppedNoBuffer += _batch.Count;
        _batch.Clear();
        return true;
    }

    // A dead ring has nothing to wait for: whatever is in it stays there, and no kick matters until it is set up anew.
    private static bool MustStay(NetQueue? queue) => queue is { Error: Virtio.RingError.None } && queue.EnableNotifications();

    private static void Check(NetPort port, NetQueue queue)
    {
        if (queue.Error != Virtio.RingError.None)
        {
            port.Report(queue);
        }
    }
}
