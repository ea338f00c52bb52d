using System.Diagnostics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Vfio.Linux;

namespace Vfio.Virtio;

/// <summary>The code of a packed ring's device side, compiled for each way of reaching the ring.</summary>
internal sealed unsafe class PackedDeviceQueue<TRing> : PackedDeviceQueue
    where TRing : struct, IRingMemory
{
    // SAFETY, for the whole class: the constructor's caller vouches for RingAddresses.*Bytes of each part while this object is
    // used. Slots are our own count, always below Size. The driver writes the ring at any time: what is read is copied once.
    // A descriptor is two 8-byte words: address, then length, id and flags.
    private const int DescriptorBytes = 16;

    private readonly TRing _ring;

    private PackedPosition _nextAvail;
    private PackedPosition _nextUsed;
    private int _unpublished;
    private int _firstSlot;
    private ulong _firstControl;
    private bool _hasPublished;
    private bool _holdsFirst;

    public PackedDeviceQueue(int size, TRing ring, VirtioFeatures features, RingPosition position)
        : base(size, features)
    {
        _ring = ring;
        _nextAvail = PackedPosition.FromRaw(position.Avail);
        _nextUsed = PackedPosition.FromRaw(position.Used);
    }

    public override RingPosition Position => new(_nextAvail.Raw, _nextUsed.Raw);

    private uint* DriverEvent => (uint*)_ring.Driver(0);

    private uint* DeviceEvent => (uint*)_ring.Device(0);

    public override PackedDescriptor ReadSlot(int slot)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(slot);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(slot, Size);
        ulong* words = _ring.Descriptor((uint)slot);
        return new PackedDescriptor(new BusAddress(words[0]), words[1]);
    }

    public int PeekRing<TTranslator>(
        ref TTranslator translator, Span<DescriptorChain> chains, Span<HostSegment> segments)
        where TTranslator : struct, ITranslator
    {
        Missed = false;
        if (Error != RingError.None)
        {
            return 0;
        }

        segments = segments[..Math.Min(segments.Length, ushort.MaxValue)];
        var place = new Place { Slot = _nextAvail.Slot, Wrap = _nextAvail.Wrap, Outstanding = Outstanding };
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
    // flat ring no call is made in the loop, so that what lives there stays in registers. Ends at the first one that is anything else, or
    // not there.
    private void PeekPlain<TTranslator, TAccess>(
        ref TTranslator translator, Span<DescriptorChain> chains, Span<HostSegment> segments, ref Place place)
        where TTranslator : struct, ITranslator
        where TAccess : struct, IBufferAccess
    {
        const ulong Next = virtio_ring.VRING_DESC_F_NEXT;
        const ulong Indirect = virtio_ring.VRING_DESC_F_INDIRECT;
        const ulong Write = virtio_ring.VRING_DESC_F_WRITE;
        const ulong Layout = PackedDescriptor.AvailFlag | PackedDescriptor.UsedFlag | Next | Indirect;
        int first = place.Chains;
        // Not beyond the ring's end, nor its page's: the wrap counter is a constant here, and the next descriptor 16 bytes on. PeekOther
        // takes the chain behind it.
        int most = Math.Min(
            Math.Min(chains.Length - first, segments.Length - place.Segments),
            Size - Math.Max(place.Outstanding, place.Slot));
        if (Missed || most <= 0)
        {
            return;
        }

        ulong* words = _ring.Descriptors((uint)place.Slot, ref most);
        // SAFETY: each has as many elements as the loop has turns; behind the last one nothing is touched.
        ref DescriptorChain chain = ref MemoryMarshal.GetReference(chains.Slice(first, most));
        ref HostSegment segment = ref MemoryMarshal.GetReference(segments.Slice(place.Segments, most));
        ulong* end = words + (2 * most);
        // Without NEXT and INDIRECT, and such as the device uses here.
        const ulong Mask = (Layout | Write) << 48;
        ulong wanted = ((ulong)(place.Wrap ? PackedDescriptor.AvailFlag : PackedDescriptor.UsedFlag)
            | (TAccess.Access == DeviceAccess.Write ? Write : 0)) << 48;
        uint payload = (uint)PayloadOffset;
        var at = new ChainPlace((ushort)place.Slot, (ushort)place.Segments);
        // A copy that only this method knows.
        TTranslator own = translator;
        for (; words != end; words += 2)
        {
            // ORDER: length, id and flags before the address; pairs with the driver's release of the flags, which it writes last.
            ulong control = Barriers.ReadAcquire(words + 1);
            uint length = (uint)(control & uint.MaxValue);
            ulong address = *words;
            if ((control & Mask) != wanted || length == 0 || unchecked(address + length) <= address)
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
            chain = DescriptorChain.OfOne<TAccess>(unchecked((ushort)(control >> 32)), at, length);
            segment = ref Unsafe.Add(ref segment, 1);
            chain = ref Unsafe.Add(ref chain, 1);
            at = at.Next;
        }

        int count = most - (int)((ulong)(end - words) / 2);
        translator.CountAtHand(count);
        place.Chains = first + count;
        place.Taken += count;
        place.Segments += count;
        place.Outstanding += count;
        place.Slot += count;
        if (place.Slot == Size)
        {
            place.Slot = 0;
            place.Wrap = !place.Wrap;
        }
    }

    // Any chain. False when there is none, at an error, and when it does not fit any more.
    [MethodImpl(MethodImplOptions.NoInlining)]
    private bool PeekOther<TTranslator>(
        ref TTranslator translator, Span<DescriptorChain> chains, Span<HostSegment> segments, ref Place place)
        where TTranslator : struct, ITranslator
    {
        // ORDER: length, id and flags before the address and the rest of the chain; pairs with the driver's release of the
        // head's flags, which it writes last.
        ulong* words = _ring.Descriptor((uint)place.Slot);
        ulong control = Barriers.ReadAcquire(words + 1);
        if (!PackedDescriptor.IsAvailable(control, place.Wrap))
        {
            return false;
        }

        var descriptor = new PackedDescriptor(new BusAddress(*words), control);
        var chain = new ChainBuilder(segments, place.Segments, this);
        RingError error = Walk(ref translator, _ring, Size, place.Slot, descriptor, ref chain, out ushort id, out int slots);
        error = error == RingError.None && place.Outstanding + slots > Size ? RingError.TooManyOutstanding : error;
        if (error != RingError.None)
        {
            FailUnlessLeft(error, (ushort)place.Slot, place.Segments);
            return false;
        }

        Missed |= chain.Missed;
        if (!chain.Missed)
        {
            chains[place.Chains] = chain.Build(id, (ushort)slots, (ushort)place.Slot);
        }

        place.Chains++;
        place.Taken += Missed ? 0 : 1;
        place.Segments += chain.Count;
        place.Outstanding += slots;
        place.Slot += slots;
        if (place.Slot >= Size)
        {
            place.Slot -= Size;
            place.Wrap = !place.Wrap;
        }

        return true;
    }

    public bool ResolveRecord<TTranslator>(
        ref TTranslator translator,
        ReadOnlySpan<PackedDescriptor> descriptors,
        out DescriptorChain chain,
        Span<HostSegment> segments)
        where TTranslator : struct, ITranslator
    {
        chain = default;
        Missed = false;
        RingError error = descriptors.IsEmpty || descriptors.Length > Size ? RingError.ChainTooLong : Error;
        if (error == RingError.None)
        {
            var builder = new ChainBuilder(segments[..Math.Min(segments.Length, ushort.MaxValue)], 0, this);
            int slots;
            ushort id;
            // SAFETY: the walk reads no further than descriptors.Length, which it is given as the ring's size.
            fixed (PackedDescriptor* record = descriptors)
            {
                error = Walk(
                    ref translator, new FlatRing((ulong*)record), descriptors.Length, 0, descriptors[0], ref builder, out id, out slots);
            }

            // A record of more than the chain would have the device use slots that it never took.
            error = error == RingError.None && slots != descriptors.Length ? RingError.ChainTooLong
                : error == RingError.None && Outstanding + slots > Size ? RingError.TooManyOutstanding : error;
            Missed = builder.Missed;
            chain = builder.Build(id, (ushort)slots, _nextAvail.Slot);
        }

        if (error != RingError.None)
        {
            Fail(error, _nextAvail.Slot);
        }

        bool resolved = error == RingError.None && !Missed;
        Outstanding += resolved ? chain.Slots : 0;
        return resolved;
    }

    public override void Consume(ReadOnlySpan<DescriptorChain> chains)
    {
        int slots = 0;
        foreach (ref readonly DescriptorChain chain in chains)
        {
            slots += chain.Slots;
        }

        Debug.Assert(Outstanding + slots <= Size, "more was consumed than was peeked");
        _nextAvail = _nextAvail.Advance(slots, Size);
        Outstanding += slots;
    }

    public override void Complete(ReadOnlySpan<UsedChain> used)
    {
        // virtio 1.3, 2.8.6 "The Virtqueue Descriptor Ring" and 2.8.21.2: a used descriptor takes the chain's first slot's place in
        // used order; the driver skips the chain's other slots. Only the batch's first stays back, until Reveal.
        TRing ring = _ring;
        int slot = _nextUsed.Slot;
        bool wrap = _nextUsed.Wrap;
        int slots = 0;
        foreach (UsedChain chain in used)
        {
            ushort flags = wrap ? (ushort)(PackedDescriptor.AvailFlag | PackedDescriptor.UsedFlag) : (ushort)0;
            flags |= chain.Written != 0 ? virtio_ring.VRING_DESC_F_WRITE : (ushort)0;
            ulong control = PackedDescriptor.MakeControl(chain.Written, chain.Id, flags);
            if (_holdsFirst)
            {
                ring.Descriptor((uint)slot)[1] = control;
            }
            else
            {
                _holdsFirst = true;
                _firstSlot = slot;
                _firstControl = control;
            }

            slots += chain.Slots;
            slot += chain.Slots;
            if (slot >= Size)
            {
                slot -= Size;
                wrap = !wrap;
            }
        }

        _nextUsed = new PackedPosition((ushort)slot, wrap);
        _unpublished += slots;
        Outstanding -= slots;
        Debug.Assert(Outstanding >= 0, "more was completed than was consumed");
    }

    public override void CompleteReadOnly(ReadOnlySpan<UsedChain> used)
    {
        if (!IsInOrder || used.IsEmpty)
        {
            Complete(used);
            return;
        }

        // virtio 1.3, 2.8.9 "In-order use of descriptors": one used descriptor at the batch's first slot, with the id of its last
        // buffer; then skip over the batch. Batches that are held back are not made one: DPDK's driver (22.11), which frees the
        // buffers of a used descriptor all at once, is slower then.
        int slots = 0;
        foreach (UsedChain chain in used)
        {
            Debug.Assert(chain.Written == 0, "a skipped buffer counts as written whole");
            slots += chain.Slots;
        }

        Complete([new UsedChain(used[^1].Id, (ushort)slots, 0)]);
    }

    public override bool Publish()
    {
        int count = _unpublished;
        if (count == 0)
        {
            return false;
        }

        Reveal();
        _unpublished = 0;

        // ORDER: the used descriptors before the read of the driver's suppression; pairs with the driver's fence between enabling
        // notifications and its re-check.
        Barriers.StoreLoadFence();
        bool first = !_hasPublished;
        _hasPublished = true;
        // ORDER: a fresh read after the fence; offset and flags in one.
        uint suppression = Barriers.ReadAcquire(DriverEvent);
        if (first && ((suppression >> 16) & 3) == virtio_ring.VRING_PACKED_EVENT_FLAG_DESC)
        {
            // What the device before us signalled is not known.
            return true;
        }

        return EventIndex.CrossedPacked(suppression, _nextUsed, count, Size, HasEventIndex);
    }

    public override bool EnableNotifications()
    {
        uint wish = HasEventIndex
            ? _nextAvail.Raw | ((uint)virtio_ring.VRING_PACKED_EVENT_FLAG_DESC << 16)
            : (uint)virtio_ring.VRING_PACKED_EVENT_FLAG_ENABLE << 16;
        // ORDER: offset and flags in one store; the fence below does the work.
        Barriers.WriteRelease(DeviceEvent, wish);

        // ORDER: the wish before the re-check; pairs with the driver's fence between publishing and reading the wish.
        Barriers.StoreLoadFence();
        // ORDER: fresh after the fence.
        return PackedDescriptor.IsAvailable(Barriers.ReadAcquire(_ring.Descriptor(_nextAvail.Slot) + 1), _nextAvail.Wrap);
    }

    public override void DisableNotifications() =>
        // ORDER: advice only, pairs with nothing.
        Barriers.WriteRelease(DeviceEvent, (uint)virtio_ring.VRING_PACKED_EVENT_FLAG_DISABLE << 16);

    internal override void Reveal()
    {
        // ORDER: the data and every other used descriptor of the batch before its first one, where the driver looks next; pairs
        // with the driver's acquire of that descriptor. Length, id and flags are one store, so no flags are ever seen half done.
        if (_holdsFirst)
        {
            _holdsFirst = false;
            Barriers.WriteRelease(_ring.Descriptor((uint)_firstSlot) + 1, _firstControl);
        }
    }

    internal override void AddUsedLines(int count, ref CacheLines lines)
    {
        if (typeof(TRing) == typeof(FlatRing))
        {
            int slot = _nextUsed.Slot;
            int first = Math.Min(count, Size - slot);
            lines.Add(_ring.Descriptor((uint)slot), (nuint)first * DescriptorBytes);
            lines.Add(_ring.Descriptor(0), (nuint)(count - first) * DescriptorBytes);
        }
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private RingError Walk<TTranslator, TSlots>(
        ref TTranslator translator,
        TSlots ring,
        int size,
        int slot,
        PackedDescriptor descriptor,
        ref ChainBuilder chain,
        out ushort id,
        out int slots)
        where TTranslator : struct, ITranslator
        where TSlots : struct, IRingMemory
    {
        slots = 0;
        while (true)
        {
            slots++;
            id = descriptor.Id;
            if (descriptor.IsIndirect)
            {
                // virtio 1.3, 2.8.19 "Driver Requirements: Indirect Descriptors": never in a list linked by NEXT.
                return !HasIndirect ? RingError.IndirectNotNegotiated
                    : slots != 1 || descriptor.HasNext ? RingError.IndirectInChain
                    : WalkTable(ref translator, descriptor, ref chain);
            }

            RingError error = chain.Append(
                ref translator, descriptor.Address.Value, descriptor.Length, descriptor.IsWritable);
            if (error != RingError.None || !descriptor.HasNext)
            {
                return error;
            }

            if (slots == size)
            {
                return RingError.ChainTooLong;
            }

            slot = slot + 1 == size ? 0 : slot + 1;
            ulong* words = ring.Descriptor((uint)slot);
            descriptor = new PackedDescriptor(new BusAddress(words[0]), words[1]);
        }
    }

    private static RingError WalkTable<TTranslator>(
        ref TTranslator translator, PackedDescriptor indirect, ref ChainBuilder chain)
        where TTranslator : struct, ITranslator
    {
        RingError error = IndirectTable.Open(
            ref translator, indirect.Address.Value, indirect.Length, ref chain, out IndirectTable table);
        if (error != RingError.None || chain.Missed)
        {
            return error;
        }

        for (uint i = 0; error == RingError.None && i < table.Entries; i++)
        {
            TranslationStatus status = table.Read(ref translator, i, out ulong address, out ulong control);
            if (status != TranslationStatus.Translated)
            {
                if (status == TranslationStatus.Miss)
                {
                    chain.SetMissed();
                }

                return status == TranslationStatus.Miss ? RingError.None : RingError.AccessDenied;
            }

            // virtio 1.3, 2.8.7 "Indirect Flag: Scatter-Gather Support": every entry counts, only WRITE means anything. Not even that in a
            // ring that is only read: DPDK's driver (22.11) fills its tables with WRITE once and leaves it where the header goes.
            var entry = new PackedDescriptor(new BusAddress(address), control);
            error = entry.IsIndirect ? RingError.NestedIndirect
                : chain.Append(ref translator, address, entry.Length, entry.IsWritable && !chain.IsOnlyRead);
        }

        return error;
    }

    // How far a Peek came: chains looked at, those of them before the first miss, segments filled, slots that would be outstanding,
    // and the slot of the next chain.
    private struct Place
    {
        public int Chains;
        public int Taken;
        public int Segments;
        public int Outstanding;
        public int Slot;
        public bool Wrap;
    }
}
