using System.Runtime.CompilerServices;
using Vfio.Virtio;

namespace Vfio.VhostUser;

/// <summary>Where a network queue takes its chains from, translated, and where it gives them back: the ring, with what a dead predecessor
/// left, the record of what is in flight, and the IOTLB's questions. Compiled for each way of translating addresses.</summary>
/// <remarks>For the one thread that polls the queue.</remarks>
internal sealed class ChainSource<TTranslator>
    where TTranslator : struct, ITranslator
{
    /// <summary>Chains of a batch, at most: a frame of 64 KiB over buffers of a page or less.</summary>
    public const int MostChains = 4 * FrameBatch.Capacity;

    private const int MostSegments = 2048;

    // Chains looked at ahead of need, first and at most, and batches after a miss that do it.
    private const int FirstAhead = 4;
    private const int MostAhead = 256;
    private const int LookAheads = 64;

    // Off only to measure what it gains. A constant by the time that this is compiled for good.
    private static readonly bool LooksAhead =
        !AppContext.TryGetSwitch("Vfio.VhostUser.IotlbPrefetchOff", out bool off) || !off;

    private readonly VringConfiguration _ring;
    private readonly DeviceQueue _queue;
    private TTranslator _translator;
    private DescriptorChain[]? _aheadChains;
    private HostSegment[]? _aheadSegments;
    private int _lookAheads;
    private int _ahead = FirstAhead;
    private long _aheadGeneration;
    private bool _isResubmitted;

    public ChainSource(VringConfiguration ring, DeviceQueue queue, TTranslator translator)
    {
        _ring = ring;
        _queue = queue;
        _translator = translator;
    }

    /// <summary>What <see cref="Peek"/> and <see cref="Resubmit"/> filled.</summary>
    public DescriptorChain[] Chains { get; } = new DescriptorChain[MostChains];

    /// <summary>The memory of those chains, until the end of the batch.</summary>
    public HostSegment[] Segments { get; } = new HostSegment[MostSegments];

    /// <summary>Whether a predecessor left chains, which come before those of the ring.</summary>
    public bool HasPending => _ring.Inflight is { HasPending: true };

    /// <summary>Begins a batch. A translation that is on its way is not waited for: the poller does other work and comes back.</summary>
    /// <returns>False when it is of no use yet.</returns>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public bool TryBegin() => typeof(TTranslator) != typeof(IotlbTranslator) || _ring.Iotlb!.TryBegin();

    /// <summary>The next chains: those that a predecessor left, one by one, then those of the ring.</summary>
    /// <param name="wanted">At most so many.</param>
    /// <returns>How many.</returns>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public int Next(int wanted) => HasPending ? Resubmit() : Peek(wanted);

    /// <summary>The next chain that a predecessor left.</summary>
    /// <returns>1, or 0 where its memory is not known yet, or wrong.</returns>
    public int Resubmit()
    {
        _isResubmitted = _ring.Inflight!.Resubmit(_queue, ref _translator, out Chains[0], Segments);
        if (typeof(TTranslator) == typeof(IotlbTranslator))
        {
            _ring.Iotlb!.Ask(_queue.Missed);
        }

        return _isResubmitted ? 1 : 0;
    }

    /// <summary>The ring's next chains, which stay there until they are finished.</summary>
    /// <param name="wanted">At most so many.</param>
    /// <returns>How many.</returns>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public int Peek(int wanted)
    {
        int count = _queue.Peek(ref _translator, Chains.AsSpan(0, wanted), Segments);
        if (typeof(TTranslator) == typeof(IotlbTranslator) && (_lookAheads != 0 || _ring.Iotlb!.HasQuestions))
        {
            LookAhead(wanted, count);
        }

        return count;
    }

    /// <summary>Takes the first of the chains that were looked at, and gives them back as used. The driver is not shown that yet.</summary>
    /// <param name="chains">The chains.</param>
    /// <param name="used">What was written to each.</param>
    /// <param name="onlyRead">Whether that is nothing.</param>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void Finish(ReadOnlySpan<DescriptorChain> chains, ReadOnlySpan<UsedChain> used, bool onlyRead)
    {
        if (!_isResubmitted)
        {
            _ring.Inflight?.Take(_queue, chains);
            _queue.Consume(chains);
        }

        _isResubmitted = false;
        if (onlyRead)
        {
            _queue.CompleteReadOnly(used);
        }
        else
        {
            _queue.Complete(used);
        }

        _ring.Inflight?.Use(used);
    }

    // Where one chain missed the next ones will: what the ring shows behind them is asked for together with it, now and for a while.
    // How far, grows with each miss that was not foreseen, and starts small whenever translations were taken away: a Linux guest
    // drops all of them every few milliseconds, and a receive ring is full of buffers that would not be used by then.
    [MethodImpl(MethodImplOptions.NoInlining)]
    private void LookAhead(int wanted, int count)
    {
        IotlbView iotlb = _ring.Iotlb!;
        bool cutShort = _queue.Missed;
        if (count == 0 && !cutShort)
        {
            // Nothing there, so nothing behind it; or an error.
            iotlb.Ask(cutShort: false);
            return;
        }

        if (cutShort)
        {
            _lookAheads = LookAheads;
            _ahead = iotlb.Generation == _aheadGeneration ? Math.Min(2 * _ahead, MostAhead) : FirstAhead;
            _aheadGeneration = iotlb.Generation;
        }
        else if (_lookAheads != 0)
        {
            _lookAheads--;
        }

        if (LooksAhead)
        {
            _aheadChains ??= new DescriptorChain[MostChains + MostAhead];
            _aheadSegments ??= new HostSegment[MostSegments];
            _queue.LookAhead(ref _translator, _aheadChains.AsSpan(0, wanted + _ahead), _aheadSegments);
        }

        iotlb.Ask(cutShort);
    }
}
