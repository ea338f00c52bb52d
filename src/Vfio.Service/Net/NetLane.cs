using System.Diagnostics;
using Vfio.VhostUser;

namespace Vfio.Service;

/// <summary>Moves frames one way: from one transmit ring to one receive ring, through the buffers of a batch.</summary>
/// <remarks>For one poller. Frames that find no buffer wait in the batch, and the transmit ring with them, so that a guest that
/// is only slow loses none; one that takes nothing for a while is not waited for any more.</remarks>
internal sealed class NetLane : IPollable, IDisposable
{
    private static readonly long PatienceTicks = Stopwatch.Frequency / 20;
    private static readonly long TranslationPatienceTicks = Stopwatch.Frequency;

    private readonly ForwardMode _mode;
    private readonly NetPort _source;
    private readonly int _transmit;
    private readonly int _receive;
    private readonly FrameBatch _batch;
    private readonly int _frameSize;
    private long _waitingSince;
    private bool _gaveUp;

    /// <summary>Makes the lane.</summary>
    /// <param name="source">The port that frames come from, which says what is done with them and where they go.</param>
    /// <param name="pair">Which pair of queues, the same on both sides.</param>
    /// <param name="pool">Where the buffers are.</param>
    public NetLane(NetPort source, int pair, PinnedPool pool)
    {
        _mode = source.Options.Mode;
        _source = source;
        _transmit = (2 * pair) + 1;
        _receive = 2 * pair;
        _frameSize = source.Options.FrameSize;
        _batch = new FrameBatch(pool);
    }

    /// <inheritdoc/>
    public bool HasWorkWhileParked => _source.Ring(_transmit) is { AreAnswersAwaited: true }
        || Destination is { AreAnswersAwaited: true };

    private NetQueue? Destination => _mode == ForwardMode.TxOnly ? _source.Ring(_receive) : _source.Target?.Ring(_receive);

    /// <inheritdoc/>
    public bool PollOnce() => _mode switch
    {
        ForwardMode.RxOnly => Receive(),
        ForwardMode.TxOnly => Generate() | Receive(),
        _ => Forward(),
    };

    /// <inheritdoc/>
    public bool WorkWhileParked() =>
        (_source.Ring(_transmit)?.TakeAnswers() ?? false) | (Destination?.TakeAnswers() ?? false);

    /// <inheritdoc/>
    public bool EnableNotifications()
    {
        // What is left of generated frames is no reason to stay awake: the guest's buffers are.
        return (_mode != ForwardMode.TxOnly && _batch.Count != 0)
            | HasWorkWhileParked
            | MustStay(_source.Ring(_transmit))
            | (_mode == ForwardMode.TxOnly && _source.Ring(_receive) is { Ring.Enabled: true } receive && MustStay(receive));
    }

    /// <inheritdoc/>
    public void DisableNotifications()
    {
        _source.Ring(_transmit)?.DisableNotifications();
        if (_mode == ForwardMode.TxOnly)
        {
            _source.Ring(_receive)?.DisableNotifications();
        }
    }

    public void Dispose() => _batch.Dispose();

    private bool Receive()
    {
        NetQueue? transmit = _source.Ring(_transmit);
        if (transmit is null)
        {
            return false;
        }

        if (_mode == ForwardMode.TxOnly)
        {
            // What a guest sends by itself (its own announcements) must not fill its ring.
            return transmit.Discard() != 0;
        }

        bool any = Fill(transmit);
        _batch.Clear();
        return any;
    }

    private bool Generate()
    {
        if (_source.Ring(_receive) is not { Ring.Enabled: true } receive)
        {
            return false;
        }

        // The same frames every time: they are not changed, so they stay where they are.
        if (_batch.Count == 0)
        {
            TestFrames.Fill(_batch, _frameSize);
        }

        int taken = receive.Enqueue(_batch);
        _batch.Refill();
        Check(_source, receive);
        return taken != 0;
    }

    private bool Forward()
    {
        bool any = false;
        NetPort? target = _source.Target;
        if (_batch.Count != 0)
        {
            // Nothing more is taken from it meanwhile, and what it gives back may be what the guest waits for.
            _source.Ring(_transmit)?.Settle();
        }
        else
        {
            if (_source.Ring(_transmit) is not { } transmit || !Fill(transmit))
            {
                target?.Ring(_receive)?.Settle();
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

    private bool Fill(NetQueue transmit)
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
            return Drop(_source.Counters[_transmit]);
        }

        NetQueue? receive = target.Ring(_receive);
        if (receive is { Ring.Enabled: false } or { Error: not Virtio.RingError.None })
        {
            return Drop(target.Counters[_receive]);
        }

        int taken = 0;
        if (receive is not null)
        {
            taken = receive.Enqueue(_batch);
            Check(target, receive);
        }

        if (taken != 0 || _batch.Count == 0)
        {
            _waitingSince = 0;
            _gaveUp = false;
            return true;
        }

        // No buffer; or no ring, which also happens for a moment while the front-end changes something that it depends on: a Linux guest
        // revokes everything its IOMMU allowed, its rings included, every few milliseconds.
        long now = Stopwatch.GetTimestamp();
        _waitingSince = _waitingSince == 0 ? now : _waitingSince;
        // The driver gave buffers; where they are is on its way from the front-end.
        bool isAsked = receive is { IsWaitingForTranslation: true };
        if ((isAsked || !_gaveUp) && now - _waitingSince < (isAsked ? TranslationPatienceTicks : PatienceTicks))
        {
            return false;
        }

        _gaveUp = !isAsked;
        return Drop(target.Counters[_receive]);
    }

    private bool Drop(NetQueueCounters counters)
    {
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
