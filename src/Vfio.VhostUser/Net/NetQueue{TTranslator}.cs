using System.Diagnostics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.VhostUser;

/// <summary>The code of a network queue, compiled for each way of translating addresses.</summary>
internal sealed unsafe class NetQueue<TTranslator> : NetQueue
    where TTranslator : struct, ITranslator
{
    // SAFETY, for the whole class: segments are what the translator vouched for until the end of the batch; a frame's buffer
    // belongs to the batch and holds Frame.MaxLength bytes. Lengths are our copies. The driver may change the bytes at any time: a
    // frame's are moved, never interpreted in place, and its header is copied before it is checked.
    private const int Batch = FrameBatch.Capacity;

    // A frame of 64 KiB over buffers of a page or less.
    private const int MostChains = 4 * Batch;
    private const int MostSegments = 2048;

    // Buffers that a driver gets to see at once. In a packed ring these are whole cache lines that are handed over anyway; in a split
    // ring each time moves the index's line once more, so half a batch.
    private const int RevealedPacked = 8;
    private const int RevealedSplit = Batch / 2;

    // A driver that sends one full batch after another need not see at once that each was taken: while it looks at the first buffer of
    // several batches only, the lines of the others are the device's, and the driver finds many at a time instead of asking, with a
    // cache line that travels, for a few. So many descriptors are held back; fewer where the driver would be left with less than two
    // batches of them (Linux stops at 19); and, from the first poll on that finds none, for so long.
    private const int MostHeld = 8 * Batch;
    private static readonly long HoldTicks = Stopwatch.Frequency / 500_000;

    // As bytes of a header: a plain frame in one buffer.
    private const ulong PlainLow = 0;
    private const uint PlainHigh = 1u << 16;

    // Chains looked at ahead of need, first and at most, and batches after a miss that do it.
    private const int FirstAhead = 4;
    private const int MostAhead = 256;
    private const int LookAheads = 64;

    // Off only to measure what it gains. A constant by the time that this is compiled for good.
    private static readonly bool LooksAhead =
        !AppContext.TryGetSwitch("Vfio.VhostUser.IotlbPrefetchOff", out bool off) || !off;

    private readonly DescriptorChain[] _chains = new DescriptorChain[MostChains];
    private readonly UsedChain[] _used = new UsedChain[MostChains];
    private readonly HostSegment[] _segments = new HostSegment[MostSegments];
    private readonly bool _readsHeader;
    private readonly bool _merges;
    private readonly bool _isPlain;
    private readonly int _revealed;
    private readonly int _mostHeld;
    private DescriptorChain[]? _aheadChains;
    private HostSegment[]? _aheadSegments;
    private int _lookAheads;
    private int _ahead = FirstAhead;
    private long _aheadGeneration;
    private long _restingSince;
    private bool _isResubmitted;
    private TTranslator _translator;
    private CacheLines _lines;

    public NetQueue(VringConfiguration ring, NetQueueCounters counters, TTranslator translator)
        : base(ring, counters)
    {
        _translator = translator;
        _readsHeader = Has(NetFeatures.Csum);
        _merges = Has(NetFeatures.MrgRxbuf);
        _isPlain = HeaderLength == NetHeader.Bytes && Log is null;
        // The dirty log is written before the driver sees what was, and the record of what is in flight knows whole batches only.
        bool showsBatches = ring.Inflight is not null || Log is not null;
        bool isPacked = ring.Features.HasFlag(VirtioFeatures.RingPacked);
        _revealed = showsBatches ? int.MaxValue : isPacked ? RevealedPacked : RevealedSplit;
        _mostHeld = showsBatches ? 0 : Math.Min(ring.Size - (2 * Batch), MostHeld);
    }

    public override int Dequeue(FrameBatch batch)
    {
        int count = TryBegin() ? Next() : 0;
        if (count == 0)
        {
            Rest();
            return 0;
        }

        // The payloads were last written on another processor: all are on their way before the first is waited for.
        ReadOnlySpan<DescriptorChain> chains = _chains.AsSpan(0, count);
        foreach (ref readonly DescriptorChain chain in chains)
        {
            ref readonly HostSegment first = ref _segments[chain.First];
            Prefetch(first.Length > HeaderLength || chain.ReadableCount < 2
                ? first.Base + HeaderLength : _segments[chain.First + 1].Base);
        }

        long bytes = 0;
        Span<UsedChain> used = _used.AsSpan(0, count);
        for (int i = 0; i < count; i++)
        {
            ref readonly DescriptorChain chain = ref chains[i];
            used[i] = chain.Used(0);
            bytes += Take(in chain, batch);
        }

        Finish(chains, used, onlyRead: true);
        // No fewer than the descriptors that the driver is short of, each of which has a segment; those of an indirect table count, too.
        Held += chains[^1].First + chains[^1].Count;
        _restingSince = 0;
        if (count < Batch || Held >= _mostHeld)
        {
            Publish(used);
        }

        Counters.Frames += batch.Count;
        Counters.Bytes += bytes;
        Counters.Bursts++;
        return count;
    }

    public override int Discard()
    {
        int count = TryBegin() ? Next() : 0;
        if (count != 0)
        {
            for (int i = 0; i < count; i++)
            {
                _used[i] = _chains[i].Used(0);
            }

            Finish(_chains.AsSpan(0, count), _used.AsSpan(0, count), onlyRead: true);
            Publish(_used.AsSpan(0, count));
            Counters.DroppedDisabled += count;
        }
        else
        {
            Settle();
        }

        return count;
    }

    public override int Enqueue(FrameBatch batch)
    {
        if (!TryBegin() || (Ring.Inflight is { HasPending: true } && !GiveBack()))
        {
            return 0;
        }

        int before = batch.Count;
        int wanted = before;
        long bytes = 0;
        int frames = 0;
        while (batch.Count != 0)
        {
            int count = Peek(wanted);
            if (count == 0)
            {
                break;
            }

            Span<DescriptorChain> chains = _chains.AsSpan(0, count);
            ReadyLines(chains, batch.Frames);
            int taken = 0;
            int finished = 0;
            int next = 0;
            ReadOnlySpan<Frame> waiting = batch.Frames;
            Span<UsedChain> given = _used;
            for (; next < waiting.Length && taken < chains.Length; next++)
            {
                ref readonly Frame frame = ref waiting[next];
                int used = 1;
                if (_isPlain && TryPut(in frame, in chains[taken]))
                {
                    given[taken] = chains[taken].Used((uint)(NetHeader.Bytes + frame.Length));
                }
                else
                {
                    used = PutSlowly(in frame, chains[taken..], given[taken..]);
                    if (used < 0)
                    {
                        break;
                    }
                }

                if (used != 0)
                {
                    frames++;
                    bytes += frame.Length;
                }

                taken += used;
                if (taken - finished >= _revealed)
                {
                    Finish(chains[finished..taken], given[finished..taken], onlyRead: false);
                    Queue.Reveal();
                    finished = taken;
                }
            }

            int left = waiting.Length - next;
            batch.Take(next);
            Finish(chains[finished..taken], given[finished..taken], onlyRead: false);
            if (Ring.Inflight is not null)
            {
                // The record knows one batch at a time.
                Log?.Flush();
                Publish(_used.AsSpan(0, taken));
            }

            // Fewer than asked for: the ring is empty. Else large frames need more than a buffer each: as many as it takes, not all
            // that there are, whose translations may be missing.
            int more = left == 0 || count < wanted ? 0 : BuffersFor(batch.Frames, chains[^1].WritableLength);
            // Buffers may differ, and the guess be too small: then whatever there is.
            more = taken == 0 && more != 0 && more <= wanted ? MostChains : more;
            if (more == 0 || (taken == 0 && more <= wanted))
            {
                break;
            }

            wanted = more;
        }

        Log?.Flush();
        Publish([]);
        Counters.Frames += frames;
        Counters.Bytes += bytes;
        Counters.Bursts += frames != 0 ? 1 : 0;
        return before - batch.Count;
    }

    // The driver's processor has all of them in its cache: the frames' own lines, which the driver prefetched when it last had the
    // buffers, and the ring's. A header's line is only read, mostly, and what follows a frame's start the processor sees by itself.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private void ReadyLines(ReadOnlySpan<DescriptorChain> chains, ReadOnlySpan<Frame> frames)
    {
        int count = Math.Min(chains.Length, frames.Length);
        for (int i = 0; i < count; i++)
        {
            ref readonly HostSegment first = ref _segments[chains[i].First];
            Prefetch(first.Base);
            _lines.Add(first.Base + HeaderLength, (nuint)Math.Min(frames[i].Length, CacheLines.LineBytes));
        }

        Queue.AddUsedLines(count, ref _lines);
        _lines.Fetch();
    }

    // No chain can be taken. What is held back is shown when none could for a while, as the driver may be waiting for it.
    [MethodImpl(MethodImplOptions.NoInlining)]
    private void Rest()
    {
        if (Held != 0 && Queue.Error == RingError.None)
        {
            long now = Stopwatch.GetTimestamp();
            _restingSince = _restingSince == 0 ? now : _restingSince;
            if (now - _restingSince < HoldTicks)
            {
                return;
            }
        }

        Settle();
    }

    private int BuffersFor(ReadOnlySpan<Frame> frames, ulong buffer)
    {
        ulong needed = 0;
        foreach (ref readonly Frame frame in frames)
        {
            // Rounded up, as no two frames share a buffer.
            needed += ((ulong)(HeaderLength + frame.Length) / Math.Max(buffer, 1)) + 1;
        }

        return (int)Math.Min(needed, MostChains);
    }

    // The next chains: those that a dead predecessor left, one by one, then those of the ring.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private int Next() => Ring.Inflight is { HasPending: true } ? Resubmit() : Peek(Batch);

    private int Resubmit()
    {
        _isResubmitted = Ring.Inflight!.Resubmit(Queue, ref _translator, out _chains[0], _segments);
        return _isResubmitted ? 1 : 0;
    }

    // Receive buffers that a predecessor had taken go back unused: a driver drops a length of 0 and offers the buffer again.
    private bool GiveBack()
    {
        while (Ring.Inflight!.HasPending)
        {
            if (Resubmit() == 0)
            {
                return false;
            }

            _used[0] = _chains[0].Used(0);
            Finish(_chains.AsSpan(0, 1), _used.AsSpan(0, 1), onlyRead: false);
            Publish(_used.AsSpan(0, 1));
        }

        return true;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private void Finish(ReadOnlySpan<DescriptorChain> chains, ReadOnlySpan<UsedChain> used, bool onlyRead)
    {
        if (!_isResubmitted)
        {
            Ring.Inflight?.Take(Queue, chains);
            Queue.Consume(chains);
        }

        _isResubmitted = false;
        if (onlyRead)
        {
            Queue.CompleteReadOnly(used);
        }
        else
        {
            Queue.Complete(used);
        }

        Ring.Inflight?.Use(used);
    }

    // A translation that is on its way is not waited for: the poller does other work and comes back.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private bool TryBegin() => typeof(TTranslator) != typeof(IotlbTranslator) || Ring.Iotlb!.TryBegin();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private int Peek(int wanted)
    {
        int count = Queue.Peek(ref _translator, _chains.AsSpan(0, wanted), _segments);
        if (typeof(TTranslator) == typeof(IotlbTranslator) && (_lookAheads != 0 || Ring.Iotlb!.HasQuestions))
        {
            LookAhead(wanted);
        }

        return count;
    }

    // Where one chain missed the next ones will: what the ring shows behind them is asked for together with it, now and for a while.
    // How far, grows with each miss that was not foreseen, and starts small whenever translations were taken away: a Linux guest
    // drops all of them every few milliseconds, and a receive ring is full of buffers that would not be used by then.
    [MethodImpl(MethodImplOptions.NoInlining)]
    private void LookAhead(int wanted)
    {
        IotlbView iotlb = Ring.Iotlb!;
        if (Queue.Missed)
        {
            _lookAheads = LookAheads;
            _ahead = iotlb.Generation == _aheadGeneration ? Math.Min(2 * _ahead, MostAhead) : FirstAhead;
            _aheadGeneration = iotlb.Generation;
        }
        else
        {
            _lookAheads--;
        }

        if (LooksAhead)
        {
            _aheadChains ??= new DescriptorChain[MostChains + MostAhead];
            _aheadSegments ??= new HostSegment[MostSegments];
            Queue.Peek(ref _translator, _aheadChains.AsSpan(0, wanted + _ahead), _aheadSegments);
        }

        iotlb.Ask();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Prefetch(byte* address)
    {
        if (Sse.IsSupported)
        {
            Sse.Prefetch0(address);
        }
    }

    // Copies a chain's frame into the batch, and says how long it is; 0 when it was dropped.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private int Take(in DescriptorChain chain, FrameBatch batch)
    {
        // Below the smallest frame this wraps, and is no small number.
        ulong beyond = unchecked(chain.ReadableLength - (uint)(HeaderLength + Frame.MinLength));
        if (_readsHeader || chain.ReadableCount != 1 || beyond > Frame.MaxLength - Frame.MinLength)
        {
            return TakeSlowly(in chain, batch);
        }

        ref readonly HostSegment first = ref _segments[chain.First];
        int length = Frame.MinLength + (int)beyond;
        Copy(batch.Append(length).Base, first.Base + HeaderLength, (uint)length);
        return length;
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private int TakeSlowly(in DescriptorChain chain, FrameBatch batch)
    {
        if (chain.ReadableLength < (ulong)(HeaderLength + Frame.MinLength)
            || chain.ReadableLength > (ulong)(HeaderLength + Frame.MaxLength))
        {
            Counters.DroppedLength++;
            return 0;
        }

        int length = (int)chain.ReadableLength - HeaderLength;
        var source = new SegmentCursor(chain.Readable(_segments));
        NetHeader header = default;
        source.Read((byte*)&header, HeaderLength);
        // Without VIRTIO_NET_F_CSUM the header says nothing (virtio 1.3, 5.1.6.2.1).
        header = _readsHeader ? header : default;
        if (!header.IsValidFor(length))
        {
            Counters.DroppedHeader++;
            return 0;
        }

        // virtio 1.3, 5.1.6.2.2 "Device Requirements: Packet Transmission": other flags mean nothing here, and to a driver that is
        // given the frame they would be promises that nobody made.
        header = header.NeedsChecksum ? header with { Flags = virtio_net.VIRTIO_NET_HDR_F_NEEDS_CSUM } : default;

        ref Frame frame = ref batch.Append(length);
        frame.Header = header;
        source.Read(frame.Base, length);
        return length;
    }

    // Copies a plain frame into a chain of one buffer.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private bool TryPut(in Frame frame, in DescriptorChain chain)
    {
        ref readonly HostSegment first = ref _segments[chain.First];
        if (chain.ReadableCount != 0 || first.Length < (uint)(NetHeader.Bytes + frame.Length) || !frame.Header.IsPlain)
        {
            return false;
        }

        // Most headers stand there already, from the buffer's last use: reading leaves the line shared, writing would take it away
        // from the driver's processor.
        byte* target = first.Base;
        if (*(ulong*)target != PlainLow)
        {
            *(ulong*)target = PlainLow;
        }

        if (*(uint*)(target + sizeof(ulong)) != PlainHigh)
        {
            *(uint*)(target + sizeof(ulong)) = PlainHigh;
        }

        Copy(target + NetHeader.Bytes, frame.Base, (uint)frame.Length);
        return true;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Copy(byte* target, byte* source, uint length)
    {
        // The smallest frames are the most frequent ones: two halves that may overlap.
        if (unchecked(length - (uint)Vector256<byte>.Count) > (uint)Vector256<byte>.Count)
        {
            Unsafe.CopyBlockUnaligned(target, source, length);
            return;
        }

        Vector256<byte> start = Vector256.Load(source);
        Vector256<byte> end = Vector256.Load(source + length - Vector256<byte>.Count);
        start.Store(target);
        end.Store(target + length - Vector256<byte>.Count);
    }

    // Copies a frame into chains. Returns how many it took: 0 when it was dropped, -1 when there are not enough.

    [MethodImpl(MethodImplOptions.NoInlining)]
    private int PutSlowly(in Frame frame, ReadOnlySpan<DescriptorChain> chains, Span<UsedChain> used)
    {
        NetHeader header = frame.Header;
        if (header.GsoKind != 0 && !TakesSegments(header))
        {
            // virtio 1.3, 5.1.6.4.1: what the driver did not offer to take, it is not given.
            Counters.DroppedOffload++;
            return 0;
        }

        ulong needed = (ulong)(HeaderLength + frame.Length);
        ulong room = 0;
        int count = 0;
        while (room < needed && count < chains.Length && (count == 0 || _merges))
        {
            room += chains[count++].WritableLength;
        }

        if (room < needed)
        {
            // More buffers may come, but never more than the ring has.
            bool never = !_merges || count >= Math.Min(MostChains, Ring.Size);
            Counters.DroppedTooLarge += never ? 1 : 0;
            return never ? 0 : -1;
        }

        // Only now that the frame goes: a second time would spoil it.
        if (header.NeedsChecksum && !Has(NetFeatures.GuestCsum))
        {
            InternetChecksum.Finish(frame.Span, header.ChecksumStart, header.ChecksumOffset);
            header = default;
        }

        // virtio 1.3, 5.1.6.4.1: 1 without MRG_RXBUF.
        header.BufferCount = (ushort)count;
        int done = -HeaderLength;
        for (int i = 0; i < count; i++)
        {
            uint written = (uint)Math.Min(chains[i].WritableLength, (ulong)(frame.Length - done));
            var target = new SegmentCursor(chains[i].Writable(_segments));
            uint rest = written;
            if (done < 0)
            {
                // virtio 1.3, 5.1.6.3.2: a buffer has room for the header, but who believes that.
                uint part = Math.Min(rest, (uint)-done);
                target.Write((byte*)&header + (HeaderLength + done), (int)part);
                done += (int)part;
                rest -= part;
            }

            if (rest != 0)
            {
                target.Write(frame.Base + done, (int)rest);
                done += (int)rest;
            }

            used[i] = chains[i].Used(written);
            LogWritten(chains[i].Writable(_segments), written);
        }

        return count;
    }

    private void LogWritten(ReadOnlySpan<HostSegment> segments, uint written)
    {
        for (int i = 0; Log is not null && written != 0 && i < segments.Length; i++)
        {
            uint part = Math.Min(written, segments[i].Length);
            Log.Add(segments[i].Address, part);
            written -= part;
        }
    }

    private bool TakesSegments(NetHeader header) =>
        Has(header.GsoKind == NetHeader.GsoTcp4 ? NetFeatures.GuestTso4 : NetFeatures.GuestTso6)
        && (header.GsoKind == header.GsoType || Has(NetFeatures.GuestEcn));
}
