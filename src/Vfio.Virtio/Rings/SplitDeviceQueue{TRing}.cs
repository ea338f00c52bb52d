using System.Diagnostics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Vfio.Linux;

namespace Vfio.Virtio;

/// <summary>The code of a split ring's device side, compiled for each way of reaching the ring.</summary>
internal sealed unsafe class SplitDeviceQueue<TRing> : SplitDeviceQueue
    where TRing : struct, IRingMemory
{
    // SAFETY, for the whole class: the constructor's caller vouches for RingAddresses.*Bytes of each part while this object is
    // used. Every index into them is masked. The driver writes the table and the available ring at any time: what is read from
    // them is copied to a local once. The used ring is only written.
    // virtio 1.3, 2.7.6 "The Virtqueue Available Ring" and 2.7.8 "The Virtqueue Used Ring": in both, flags, index, ring, event index.
    private const uint FlagsWord = 0;
    private const uint IndexWord = 1;
    private const uint RingWord = 2;

    private readonly TRing _ring;
    private readonly uint _mask;

    private ushort _nextAvail;
    private ushort _cachedAvail;
    private ushort _nextUsed;
    private ushort _publishedUsed;
    private bool _hasPublished;

    public SplitDeviceQueue(int size, TRing ring, VirtioFeatures features, RingPosition position)
        : base(size, features)
    {
        _mask = (uint)size - 1;
        _ring = ring;
        _nextAvail = _cachedAvail = position.Avail;
        _nextUsed = _publishedUsed = position.Used;
    }

    public override RingPosition Position => new(_nextAvail, _nextUsed);

    // Only after the ring, and with room of its own there.
    private uint AvailEventWord => RingWord + (4 * (_mask + 1));

    private uint UsedEventWord => RingWord + _mask + 1;

    public int PeekRing<TTranslator>(
        ref TTranslator translator, Span<DescriptorChain> chains, Span<HostSegment> segments)
        where TTranslator : struct, ITranslator
    {
        Missed = false;
        int ready = Error == RingError.None ? Math.Min(Ready(chains.Length), chains.Length) : 0;
        chains = chains[..ready];
        segments = segments[..Math.Min(segments.Length, ushort.MaxValue)];
        var place = default(Place);
        do
        {
            if (Use == BufferUse.OnlyWrites)
            {
                PeekPlain<TTranslator, WritableBuffers>(ref translator, chains, segments, ref place);
            }
            else
            {
                PeekPlain<TTranslator, ReadableBuffers>(ref translator, chains, segments, ref place);
            }
        }
        while (place.Chains < chains.Length && PeekOther(ref translator, chains, segments, ref place));

        return place.Taken;
    }

    // Chains of one descriptor whose memory lies in one piece, and where is at hand: nearly all that a network driver makes. Over a
    // flat ring no call is made in the loop, so that what lives there stays in registers. Ends at the first one that is anything else.
    private void PeekPlain<TTranslator, TAccess>(
        ref TTranslator translator, Span<DescriptorChain> chains, Span<HostSegment> segments, ref Place place)
        where TTranslator : struct, ITranslator
        where TAccess : struct, IBufferAccess
    {
        int first = place.Chains;
        int position = unchecked((ushort)(_nextAvail + first));
        // Not beyond where the index wraps: places are counted up here. PeekOther takes the chain behind it.
        int most = Math.Min(Math.Min(chains.Length - first, segments.Length - place.Segments), (1 << 16) - position);
        if (Missed || most <= 0)
        {
            return;
        }

        // SAFETY: each has as many elements as the loop has turns; behind the last one nothing is touched.
        ref DescriptorChain chain = ref MemoryMarshal.GetReference(chains.Slice(first, most));
        ref HostSegment segment = ref MemoryMarshal.GetReference(segments.Slice(place.Segments, most));
        uint mask = _mask;
        TRing ring = _ring;
        // Without NEXT and INDIRECT, and such as the device uses here.
        const uint Flags = virtio_ring.VRING_DESC_F_NEXT | virtio_ring.VRING_DESC_F_INDIRECT | virtio_ring.VRING_DESC_F_WRITE;
        uint plain = TAccess.Access == DeviceAccess.Write ? virtio_ring.VRING_DESC_F_WRITE : 0u;
        uint payload = (uint)PayloadOffset;
        var at = new ChainPlace((ushort)position, (ushort)place.Segments);
        // A copy that only this method knows.
        TTranslator own = translator;
        int end = position + most;
        int next = position;
        for (; next != end; next++)
        {
            ushort head = *ring.Driver(RingWord + ((uint)next & mask));
            if (head > mask)
            {
                break;
            }

            Descriptor descriptor = *(Descriptor*)ring.Descriptor(head & mask);
            ulong address = descriptor.Address;
            uint length = descriptor.Length;
            if ((descriptor.Flags & Flags) != plain || length == 0 || unchecked(address + length) <= address)
            {
                break;
            }

            if (!own.TryTranslate(new BusAddress(address), length, TAccess.Access, out HostAddress host))
            {
                break;
            }

            if (TAccess.Access == DeviceAccess.Read)
            {
                // The payloads were last written on another processor: all are on their way before the first is waited for.
                // SAFETY: a hint, nothing is read.
                CacheLines.Prefetch((void*)(host.Value + payload));
            }

            segment = new HostSegment(host, length);
            chain = DescriptorChain.OfOne<TAccess>(head, at, length);
            segment = ref Unsafe.Add(ref segment, 1);
            chain = ref Unsafe.Add(ref chain, 1);
            at = at.Next;
        }

        int count = next - position;
        translator.CountAtHand(count);
        place.Chains = first + count;
        place.Taken += count;
        place.Segments += count;
    }

    // Any chain. False at an error, and when it does not fit any more.
    [MethodImpl(MethodImplOptions.NoInlining)]
    private bool PeekOther<TTranslator>(
        ref TTranslator translator, Span<DescriptorChain> chains, Span<HostSegment> segments, ref Place place)
        where TTranslator : struct, ITranslator
    {
        ushort position = unchecked((ushort)(_nextAvail + place.Chains));
        ushort head = *_ring.Driver(RingWord + (position & _mask));
        var chain = new ChainBuilder(segments, place.Segments, this);
        RingError error = head > _mask
            ? RingError.HeadOutOfRange : Walk(ref translator, head, ReadDescriptor(head), ref chain);
        if (error != RingError.None)
        {
            FailUnlessLeft(error, position, place.Segments);
            return false;
        }

        Missed |= chain.Missed;
        if (!chain.Missed)
        {
            chains[place.Chains] = chain.Build(head, 1, position);
        }

        place.Chains++;
        place.Taken += Missed ? 0 : 1;
        place.Segments += chain.Count;
        return true;
    }

    public bool ResolveHead<TTranslator>(
        ref TTranslator translator, ushort head, out DescriptorChain chain, Span<HostSegment> segments)
        where TTranslator : struct, ITranslator
    {
        chain = default;
        Missed = false;
        RingError error = head > _mask ? RingError.HeadOutOfRange
            : Outstanding >= Size ? RingError.TooManyOutstanding : Error;
        if (error == RingError.None)
        {
            var builder = new ChainBuilder(segments[..Math.Min(segments.Length, ushort.MaxValue)], 0, this);
            error = Walk(ref translator, head, ReadDescriptor(head), ref builder);
            Missed = builder.Missed;
            chain = builder.Build(head, 1, _nextAvail);
        }

        if (error != RingError.None)
        {
            Fail(error, head);
        }

        bool resolved = error == RingError.None && !Missed;
        Outstanding += resolved ? 1 : 0;
        return resolved;
    }

    public override void Consume(ReadOnlySpan<DescriptorChain> chains)
    {
        _nextAvail = unchecked((ushort)(_nextAvail + chains.Length));
        Outstanding += chains.Length;
        Debug.Assert(Outstanding <= Size, "more was consumed than was peeked");
    }

    public override void Complete(ReadOnlySpan<UsedChain> used)
    {
        ushort next = _nextUsed;
        foreach (UsedChain chain in used)
        {
            // virtio 1.3, 2.7.8: le32 id, le32 len.
            _ring.WriteUsed(next & _mask, chain.Id | ((ulong)chain.Written << 32));
            next = unchecked((ushort)(next + 1));
        }

        _nextUsed = next;
        Outstanding -= used.Length;
        Debug.Assert(Outstanding >= 0, "more was completed than was consumed");
    }

    public override bool Publish()
    {
        ushort previous = _publishedUsed;
        ushort next = _nextUsed;
        if (next == previous)
        {
            return false;
        }

        Reveal();
        _publishedUsed = next;

        // ORDER: the index before the read of the driver's suppression; pairs with the driver's fence between enabling
        // notifications and its re-check of used->idx.
        Barriers.StoreLoadFence();
        if (!HasEventIndex)
        {
            // ORDER: a fresh read after the fence.
            return (Barriers.ReadAcquire(_ring.Driver(FlagsWord)) & virtio_ring.VRING_AVAIL_F_NO_INTERRUPT) == 0;
        }

        bool first = !_hasPublished;
        _hasPublished = true;
        // ORDER: a fresh read after the fence.
        ushort wanted = Barriers.ReadAcquire(_ring.Driver(UsedEventWord));
        // What the device before us signalled is not known, so the first time always signals.
        return first || EventIndex.Crossed(wanted, next, previous);
    }

    public override bool EnableNotifications()
    {
        if (HasEventIndex)
        {
            // virtio 1.3, 2.7.10 "Available Buffer Notification Suppression".
            // ORDER: nothing before it needs to be seen; the fence below does the work.
            Barriers.WriteRelease(_ring.Device(AvailEventWord), _nextAvail);
        }
        else
        {
            // ORDER: as above.
            Barriers.WriteRelease(_ring.Device(FlagsWord), 0);
        }

        // ORDER: the wish before the re-check; pairs with the driver's fence between publishing avail->idx and reading the wish.
        Barriers.StoreLoadFence();
        // ORDER: fresh after the fence.
        return Barriers.ReadAcquire(_ring.Driver(IndexWord)) != _nextAvail;
    }

    public override void DisableNotifications()
    {
        if (HasEventIndex)
        {
            // With the event index flags stay 0; an index already passed is next met 65536 chains later.
            // ORDER: advice only, pairs with nothing.
            Barriers.WriteRelease(_ring.Device(AvailEventWord), unchecked((ushort)(_nextAvail - 1)));
        }
        else
        {
            // ORDER: advice only, pairs with nothing.
            Barriers.WriteRelease(_ring.Device(FlagsWord), virtio_ring.VRING_USED_F_NO_NOTIFY);
        }
    }

    internal override void Reveal() =>
        // ORDER: used elements and the data before the index; pairs with the driver's acquire of used->idx.
        Barriers.WriteRelease(_ring.Device(IndexWord), _nextUsed);

    internal override void AddUsedLines(int count, ref CacheLines lines)
    {
        if (typeof(TRing) == typeof(FlatRing))
        {
            uint position = _nextUsed & _mask;
            int first = Math.Min(count, Size - (int)position);
            lines.Add(_ring.Device(RingWord + (4 * position)), (nuint)first * sizeof(ulong));
            lines.Add(_ring.Device(RingWord), (nuint)(count - first) * sizeof(ulong));
        }
    }

    private Descriptor ReadDescriptor(uint index) => *(Descriptor*)_ring.Descriptor(index & _mask);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private int Ready(int wanted)
    {
        int ready = unchecked((ushort)(_cachedAvail - _nextAvail));
        if (ready < wanted)
        {
            // ORDER: the index before the entries and descriptors that it covers; pairs with the driver's release of avail->idx.
            _cachedAvail = Barriers.ReadAcquire(_ring.Driver(IndexWord));
            ready = unchecked((ushort)(_cachedAvail - _nextAvail));
        }

        if (ready + Outstanding <= Size)
        {
            return ready;
        }

        Fail(ready > Size ? RingError.IndexJump : RingError.TooManyOutstanding, _cachedAvail);
        return 0;
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private RingError Walk<TTranslator>(
        ref TTranslator translator, ushort head, Descriptor descriptor, ref ChainBuilder chain)
        where TTranslator : struct, ITranslator
    {
        Debug.Assert(head <= _mask, "the caller checks the head");
        while (true)
        {
            if (descriptor.IsIndirect)
            {
                // virtio 1.3, 2.7.5.3.2: normal descriptors may come before a single indirect one, none after it.
                return !HasIndirect ? RingError.IndirectNotNegotiated
                    : descriptor.HasNext ? RingError.IndirectInChain
                    : WalkTable(ref translator, descriptor, ref chain);
            }

            RingError error = chain.Append(ref translator, descriptor.Address, descriptor.Length, descriptor.IsWritable);
            if (error != RingError.None || !descriptor.HasNext)
            {
                return error;
            }

            if (descriptor.Next > _mask)
            {
                return RingError.NextOutOfRange;
            }

            descriptor = ReadDescriptor(descriptor.Next);
        }
    }

    private static RingError WalkTable<TTranslator>(
        ref TTranslator translator, Descriptor indirect, ref ChainBuilder chain)
        where TTranslator : struct, ITranslator
    {
        RingError error = IndirectTable.Open(
            ref translator, indirect.Address, indirect.Length, ref chain, out IndirectTable table);
        if (error != RingError.None || chain.Missed)
        {
            return error;
        }

        uint index = 0;
        while (true)
        {
            TranslationStatus status = table.Read(ref translator, index, out ulong low, out ulong high);
            if (status != TranslationStatus.Translated)
            {
                if (status == TranslationStatus.Miss)
                {
                    chain.SetMissed();
                }

                return status == TranslationStatus.Miss ? RingError.None : RingError.AccessDenied;
            }

            var entry = new Descriptor(low, (uint)(high & uint.MaxValue), (ushort)((high >> 32) & 0xFFFF), (ushort)(high >> 48));
            if (entry.IsIndirect)
            {
                return RingError.NestedIndirect;
            }

            error = chain.Append(ref translator, entry.Address, entry.Length, entry.IsWritable);
            if (error != RingError.None || !entry.HasNext)
            {
                return error;
            }

            if (entry.Next >= table.Entries)
            {
                return RingError.NextOutOfRange;
            }

            index = entry.Next;
        }
    }

    // How far a Peek came: chains looked at, those of them before the first miss, segments filled.
    private struct Place
    {
        public int Chains;
        public int Taken;
        public int Segments;
    }
}
