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
    private readonly NetPort _target;
    private readonly int _transmit;
    private readonly int _receive;
    private readonly FrameBatch _batch;
    private readonly int _frameSize;
    private long _waitingSince;
    private bool _gaveUp;

    /// <summary>Makes the lane.</summary>
    /// <param name="mode">What it does.</param>
    /// <param name="source">The port that frames come from.</param>
    /// <param name="target">The port that they go to; with <see cref="ForwardMode.RxOnly"/> none do.</param>
    /// <param name="pair">Which pair of queues, the same on both sides.</param>
    /// <param name="pool">Where the buffers are.</param>
    /// <param name="frameSize">Bytes of the frames of <see cref="ForwardMode.TxOnly"/>.</param>
    public NetLane(ForwardMode mode, NetPort source, NetPort target, int pair, PinnedPool pool, int frameSize)
    {
        _mode = mode;
        _source = source;
        _target = target;
        _transmit = (2 * pair) + 1;
        _receive = 2 * pair;
        _frameSize = frameSize;
        _batch = new FrameBatch(pool);
    }

    /// <inheritdoc/>
    public bool HasWorkWhileParked => _source.Ring(_transmit) is { AreAnswersAwaited: true }
        || _target.Ring(_receive) is { AreAnswersAwaited: true };

    /// <inheritdoc/>
    public bool PollOnce() => _mode switch
    {
        ForwardMode.RxOnly => Receive(),
        ForwardMode.TxOnly => Generate() | Receive(),
        _ => Forward(),
    };

    /// <inheritdoc/>
    public bool WorkWhileParked() =>
        (_source.Ring(_transmit)?.TakeAnswers() ?? false) | (_target.Ring(_receive)?.TakeAnswers() ?? false);

    /// <inheritdoc/>
    public bool EnableNotifications()
    {
        bool more = (_batch.Count != 0 && _mode != ForwardMode.TxOnly) || HasWorkWhileParked;
        if (_source.Ring(_transmit) is { } transmit)
        {
            more |= transmit.EnableNotifications();
        }

        if (_mode == ForwardMode.TxOnly && _target.Ring(_receive) is { } receive)
        {
            more |= receive.EnableNotifications();
        }

        return more;
    }

    /// <inheritdoc/>
    public void DisableNotifications()
    {
        _source.Ring(_transmit)?.DisableNotifications();
        if (_mode == ForwardMode.TxOnly)
        {
            _target.Ring(_receive)?.DisableNotifications();
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
        if (_target.Ring(_receive) is not { Ring.Enabled: true } receive)
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
        Check(_target, receive);
        return taken != 0;
    }

    private bool Forward()
    {
        bool any = false;
        if (_batch.Count == 0)
        {
            if (_source.Ring(_transmit) is not { } transmit || !Fill(transmit))
            {
                _target.Ring(_receive)?.CallIfOwed();
                return false;
            }

            any = true;
            if (_mode == ForwardMode.MacSwap)
            {
                MacAddresses.Swap(_batch.Frames);
            }
        }

        return Deliver() || any;
    }

    private bool Fill(NetQueue transmit)
    {
        int taken = transmit.Ring.Enabled ? transmit.Dequeue(_batch) : transmit.Discard();
        Check(_source, transmit);
        return taken != 0;
    }

    private bool Deliver()
    {
        if (_batch.Count == 0)
        {
            return false;
        }

        if (_target.Ring(_receive) is not { Ring.Enabled: true, Error: Virtio.RingError.None } receive)
        {
            return Drop();
        }

        int taken = receive.Enqueue(_batch);
        Check(_target, receive);
        if (taken != 0 || _batch.Count == 0)
        {
            _waitingSince = 0;
            _gaveUp = false;
            return true;
        }

        long now = Stopwatch.GetTimestamp();
        _waitingSince = _waitingSince == 0 ? now : _waitingSince;
        // The driver gave buffers; where they are is on its way from the front-end.
        bool isAsked = receive.IsWaitingForTranslation;
        if ((isAsked || !_gaveUp) && now - _waitingSince < (isAsked ? TranslationPatienceTicks : PatienceTicks))
        {
            return false;
        }

        _gaveUp = !isAsked;
        return Drop();
    }

    private bool Drop()
    {
        _target.Counters[_receive].DroppedNoBuffer += _batch.Count;
        _batch.Clear();
        return true;
    }

    private static void Check(NetPort port, NetQueue queue)
    {
        if (queue.Error != Virtio.RingError.None)
        {
            port.Report(queue);
        }
    }
}
