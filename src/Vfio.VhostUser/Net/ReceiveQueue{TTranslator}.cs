using System.Runtime.CompilerServices;
using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.VhostUser;

/// <summary>The code of a receive queue, compiled for each way of translating addresses.</summary>
internal sealed unsafe class ReceiveQueue<TTranslator> : ReceiveQueue
    where TTranslator : struct, ITranslator
{
    // SAFETY, for the whole class: segments are what the translator vouched for until the end of the batch; a frame's buffer
    // belongs to the batch. Lengths are our copies. The driver may change the bytes at any time: they are only written, and of a header
    // it is read only whether it must be.

    // Buffers that a driver gets to see at once. In a packed ring these are whole cache lines that are handed over anyway; in a split
    // ring each time moves the index's line once more, so half a batch.
    private const int RevealedPacked = 8;
    private const int RevealedSplit = FrameBatch.Capacity / 2;

    // As bytes of a header: a plain frame in one buffer.
    private const ulong PlainLow = 0;
    private const uint PlainHigh = 1u << 16;

    private readonly ChainSource<TTranslator> _source;
    private readonly UsedChain[] _used = new UsedChain[ChainSource<TTranslator>.MostChains];
    private readonly bool _merges;
    private readonly bool _isPlain;
    private readonly int _revealed;
    private CacheLines _lines;

    public ReceiveQueue(VringConfiguration ring, NetQueueCounters counters, TTranslator translator)
        : base(ring, counters)
    {
        _source = new ChainSource<TTranslator>(ring, Queue, translator);
        _merges = Has(NetFeatures.MrgRxbuf);
        _isPlain = HeaderLength == NetHeader.Bytes && Log is null;
        bool isPacked = ring.Features.HasFlag(VirtioFeatures.RingPacked);
        _revealed = ShowsBatches ? int.MaxValue : isPacked ? RevealedPacked : RevealedSplit;
    }

    public override int Enqueue(FrameBatch batch)
    {
        if (!_source.TryBegin() || (_source.HasPending && !GiveBack()))
        {
            return 0;
        }

        int before = batch.Count;
        int wanted = before;
        long bytes = 0;
        int frames = 0;
        int longest = _isPlain ? Longest : 0;
        while (batch.Count != 0)
        {
            int count = _source.Peek(wanted);
            if (count == 0)
            {
                break;
            }

            Span<DescriptorChain> chains = _source.Chains.AsSpan(0, count);
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
                if (frame.Length <= longest && TryPut(in frame, in chains[taken]))
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
                    _source.Finish(chains[finished..taken], given[finished..taken], onlyRead: false);
                    Queue.Reveal();
                    finished = taken;
                }
            }

            int left = waiting.Length - next;
            batch.Take(next);
            _source.Finish(chains[finished..taken], given[finished..taken], onlyRead: false);
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
            more = taken == 0 && more != 0 && more <= wanted ? ChainSource<TTranslator>.MostChains : more;
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
        HostSegment[] segments = _source.Segments;
        int count = Math.Min(chains.Length, frames.Length);
        for (int i = 0; i < count; i++)
        {
            ref readonly HostSegment first = ref segments[chains[i].First];
            CacheLines.Prefetch(first.Base);
            _lines.Add(first.Base + HeaderLength, (nuint)Math.Min(frames[i].Length, CacheLines.LineBytes));
        }

        Queue.AddUsedLines(count, ref _lines);
        _lines.Fetch();
    }

    private int BuffersFor(ReadOnlySpan<Frame> frames, ulong buffer)
    {
        ulong needed = 0;
        foreach (ref readonly Frame frame in frames)
        {
            // Rounded up, as no two frames share a buffer.
            needed += ((ulong)(HeaderLength + frame.Length) / Math.Max(buffer, 1)) + 1;
        }

        return (int)Math.Min(needed, ChainSource<TTranslator>.MostChains);
    }

    // Receive buffers that a predecessor had taken go back unused: a driver drops a length of 0 and offers the buffer again.
    private bool GiveBack()
    {
        while (_source.HasPending)
        {
            if (_source.Resubmit() == 0)
            {
                return false;
            }

            _used[0] = _source.Chains[0].Used(0);
            _source.Finish(_source.Chains.AsSpan(0, 1), _used.AsSpan(0, 1), onlyRead: false);
            Publish(_used.AsSpan(0, 1));
        }

        return true;
    }

    // Copies a plain frame into a chain of one buffer.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private bool TryPut(in Frame frame, in DescriptorChain chain)
    {
        // Device-writable, as every segment of a receive ring's chains.
        ref readonly HostSegment first = ref _source.Segments[chain.First];
        if (first.Length < (uint)(NetHeader.Bytes + frame.Length) || !frame.Header.IsPlain)
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

        Frame.Copy(target + NetHeader.Bytes, frame.Base, (uint)frame.Length);
        return true;
    }

    // Copies a frame into chains. Returns how many it took: 0 when it was dropped, -1 when there are not enough.
    [MethodImpl(MethodImplOptions.NoInlining)]
    private int PutSlowly(in Frame frame, ReadOnlySpan<DescriptorChain> chains, Span<UsedChain> used)
    {
        NetHeader header = frame.Header;
        if (header.GsoKind == 0 && frame.Length > Longest && frame.Length - frame.TagBytes > Longest)
        {
            // virtio 1.3, 5.1.4.2 "Device Requirements: Device configuration layout": none that exceeds the MTU, unless of a size to be cut.
            Counters.DroppedMtu++;
            return 0;
        }

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
            bool never = !_merges || count >= Math.Min(ChainSource<TTranslator>.MostChains, Ring.Size);
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
            var target = new SegmentCursor(chains[i].Writable(_source.Segments));
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
            LogWritten(chains[i].Writable(_source.Segments), written);
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
