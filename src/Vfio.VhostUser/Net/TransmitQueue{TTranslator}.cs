using System.Diagnostics;
using System.Runtime.CompilerServices;
using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.VhostUser;

/// <summary>The code of a transmit queue, compiled for each way of translating addresses.</summary>
internal sealed unsafe class TransmitQueue<TTranslator> : TransmitQueue
    where TTranslator : struct, ITranslator
{
    // SAFETY, for the whole class: segments are what the translator vouched for until the end of the batch; a frame's buffer
    // belongs to the batch and holds Frame.MaxLength bytes. Lengths are our copies. The driver may change the bytes at any time: a
    // frame's are moved, never interpreted in place, and its header is copied before it is checked.
    private const int Batch = FrameBatch.Capacity;

    // A driver that sends one full batch after another need not see at once that each was taken: while it looks at the first buffer of
    // several batches only, the lines of the others are the device's, and the driver finds many at a time instead of asking, with a
    // cache line that travels, for a few. So many descriptors are held back; fewer where the driver would be left with less than two
    // batches of them (Linux stops at 19); and, from the first poll on that finds none, for so long.
    private const int MostHeld = 8 * Batch;
    private static readonly long HoldTicks = Stopwatch.Frequency / 500_000;

    private readonly ChainSource<TTranslator> _source;
    private readonly UsedChain[] _used = new UsedChain[Batch];
    private readonly bool _readsHeader;
    private readonly int _mostHeld;
    private long _restingSince;

    public TransmitQueue(VringConfiguration ring, NetQueueCounters counters, TTranslator translator)
        : base(ring, counters)
    {
        _source = new ChainSource<TTranslator>(ring, Queue, translator);
        _readsHeader = Has(NetFeatures.Csum);
        _mostHeld = ShowsBatches ? 0 : Math.Min(ring.Size - (2 * Batch), MostHeld);
    }

    public override int Dequeue(FrameBatch batch)
    {
        int count = _source.TryBegin() ? _source.Next(Batch) : 0;
        if (count == 0)
        {
            Rest();
            return 0;
        }

        ReadOnlySpan<DescriptorChain> chains = _source.Chains.AsSpan(0, count);
        HostSegment[] segments = _source.Segments;
        long bytes = 0;
        Span<UsedChain> used = _used.AsSpan(0, count);
        for (int i = 0; i < count; i++)
        {
            ref readonly DescriptorChain chain = ref chains[i];
            used[i] = chain.Used(0);
            bytes += Take(in chain, segments, batch);
        }

        _source.Finish(chains, used, onlyRead: true);
        // No fewer than the descriptors that the driver is short of, each of which has a segment; those of an indirect table count, too.
        Held += chains[^1].First + chains[^1].Count;
        _restingSince = 0;
        if (count < Batch || Held >= _mostHeld)
        {
            Show(used);
        }

        Counters.Frames += batch.Count;
        Counters.Bytes += bytes;
        Counters.Bursts++;
        return count;
    }

    public override int Discard()
    {
        int count = _source.TryBegin() ? _source.Next(Batch) : 0;
        if (count != 0)
        {
            ReadOnlySpan<DescriptorChain> chains = _source.Chains.AsSpan(0, count);
            Span<UsedChain> used = _used.AsSpan(0, count);
            for (int i = 0; i < count; i++)
            {
                used[i] = chains[i].Used(0);
            }

            _source.Finish(chains, used, onlyRead: true);
            Show(used);
            Counters.DroppedDisabled += count;
        }
        else
        {
            Settle();
        }

        return count;
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

    // Copies a chain's frame into the batch, and says how long it is; 0 when it was dropped.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private int Take(in DescriptorChain chain, HostSegment[] segments, FrameBatch batch)
    {
        // Below the smallest frame this wraps, and is no small number.
        ulong beyond = unchecked(chain.ReadableLength - (uint)(HeaderLength + Frame.MinLength));
        if (_readsHeader || chain.ReadableCount != 1 || beyond > Frame.MaxLength - Frame.MinLength)
        {
            return TakeSlowly(in chain, segments, batch);
        }

        ref readonly HostSegment first = ref segments[chain.First];
        int length = Frame.MinLength + (int)beyond;
        Frame.Copy(batch.Append(length).Base, first.Base + HeaderLength, (uint)length);
        return length;
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private int TakeSlowly(in DescriptorChain chain, HostSegment[] segments, FrameBatch batch)
    {
        if (chain.ReadableLength < (ulong)(HeaderLength + Frame.MinLength)
            || chain.ReadableLength > (ulong)(HeaderLength + Frame.MaxLength))
        {
            Counters.DroppedLength++;
            return 0;
        }

        int length = (int)chain.ReadableLength - HeaderLength;
        var source = new SegmentCursor(chain.Readable(segments));
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
}
