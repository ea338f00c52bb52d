using System.Runtime.InteropServices;
using Vfio.Virtio;

namespace Vfio.VhostUser;

/// <summary>The record of a packed ring. It keeps copies of the descriptors, as used ones overwrite them in the ring.</summary>
internal sealed unsafe class PackedInflight : InflightRecord
{
    // SAFETY, for the whole class: the buffer holds a header and Size entries. While the ring runs, the list of free entries is our
    // own (_next), and the one in the buffer is only written. The front-end may write it at any time, which harms only what it gets
    // back after a restart.
    private const ushort Version = 1;

    private readonly Header* _header;
    private readonly Entry* _entries;
    private readonly ushort[] _next;
    private readonly ushort[] _last;
    private readonly Queue<ushort> _taken;
    private readonly Queue<PackedDescriptor[]> _pending = new();
    private readonly Queue<ushort> _pendingEntries = new();
    private ushort _freeHead;
    private PackedPosition _used;
    private ulong _counter;

    public PackedInflight(HostAddress region, int size)
        : base(size)
    {
        _header = (Header*)region.Value;
        _entries = (Entry*)(_header + 1);
        _next = new ushort[size];
        _last = new ushort[size];
        _taken = new Queue<ushort>(size);
    }

    public override bool HasPending => _pending.Count != 0;

    internal override RingPosition Recover(RingAddresses ring, RingPosition start, out string? doubt)
    {
        _pending.Clear();
        _pendingEntries.Clear();
        _taken.Clear();
        int slots = 0;
        doubt = _header->Version == 0 ? null : TryRead(ring, out slots);
        if (_header->Version == 0 || doubt is not null)
        {
            _pending.Clear();
            _pendingEntries.Clear();
            Reset(PackedPosition.FromRaw(start.Used));
            return start;
        }

        int slot = _used.Slot + slots;
        var avail = new PackedPosition((ushort)(slot % Size), _used.Wrap ^ (slot >= Size));
        return new RingPosition(avail.Raw, _used.Raw);
    }

    internal override bool Resubmit<TTranslator>(
        DeviceQueue queue, ref TTranslator translator, out DescriptorChain chain, Span<HostSegment> segments)
    {
        bool resolved = ((PackedDeviceQueue)queue).Resolve(ref translator, _pending.Peek(), out chain, segments);
        if (resolved)
        {
            _pending.Dequeue();
            _taken.Enqueue(_pendingEntries.Dequeue());
        }

        return resolved;
    }

    internal override void Take(DeviceQueue queue, ReadOnlySpan<DescriptorChain> chains)
    {
        var ring = (PackedDeviceQueue)queue;
        foreach (ref readonly DescriptorChain chain in chains)
        {
            // As many entries as the ring has slots, and no more slots are ever outstanding than there are: one is free.
            ushort head = _freeHead;
            ushort entry = head;
            _entries[head].Count = chain.Slots;
            _entries[head].Counter = _counter++;
            for (int i = 0; i < chain.Slots; i++)
            {
                PackedDescriptor descriptor = ring.ReadSlot((chain.Position + i) % Size);
                entry = _freeHead;
                _entries[entry].Address = descriptor.Address.Value;
                _entries[entry].Length = descriptor.Length;
                _entries[entry].Flags = descriptor.Flags;
                _entries[entry].Id = descriptor.Id;
                _freeHead = _next[entry];
            }

            _last[head] = entry;
            _entries[head].Last = entry;
            // ORDER: the copies before the mark, the mark before the list's new head, which makes it count; a successor reads them
            // after our death.
            Volatile.Write(ref _entries[head].Inflight, 1);
            Volatile.Write(ref _header->FreeHead, _freeHead);
            Volatile.Write(ref _header->OldFreeHead, _freeHead);
            _taken.Enqueue(head);
        }
    }

    internal override void Use(ReadOnlySpan<UsedChain> used)
    {
        // Buffers are used in the order in which they were taken.
        int i = 0;
        foreach (ushort head in _taken)
        {
            if (i == used.Length)
            {
                break;
            }

            ushort last = _last[head];
            _next[last] = _freeHead;
            _entries[last].Next = _freeHead;
            _freeHead = head;
            int slot = _used.Slot + used[i++].Slots;
            _used = new PackedPosition((ushort)(slot % Size), _used.Wrap ^ (slot >= Size));
        }

        _header->FreeHead = _freeHead;
        _header->UsedIndex = _used.Slot;
        // ORDER: before the batch's first used descriptor, which Publish stores with release; as in Take.
        Volatile.Write(ref _header->UsedWrap, _used.Wrap ? (byte)1 : (byte)0);
    }

    internal override void Commit(ReadOnlySpan<UsedChain> used)
    {
        for (int i = 0; i < used.Length; i++)
        {
            // ORDER: after the ring's used descriptors; as in Take.
            Volatile.Write(ref _entries[_taken.Dequeue()].Inflight, 0);
        }

        _header->OldFreeHead = _freeHead;
        _header->OldUsedWrap = _used.Wrap ? (byte)1 : (byte)0;
        // ORDER: last, as it tells a batch that was begun from one that is done.
        Volatile.Write(ref _header->OldUsedIndex, _used.Slot);
    }

    // "When reconnecting". Null when the record fits the ring.
    private string? TryRead(RingAddresses ring, out int slots)
    {
        slots = 0;
        Header header = *_header;
        if (header.Version != Version || header.Count != Size)
        {
            return $"version {header.Version} for {header.Count} entries, not 1 for {Size}";
        }

        if (header.UsedIndex >= Size || header.OldUsedIndex >= Size || header.UsedWrap > 1 || header.OldUsedWrap > 1)
        {
            return $"used slots {header.UsedIndex} and {header.OldUsedIndex} of {Size}";
        }

        if (header.UsedIndex != header.OldUsedIndex || header.UsedWrap != header.OldUsedWrap)
        {
            ulong control = ring.ReadControl(Clamped(header.OldUsedIndex));
            if (!PackedDescriptor.IsAvailable(control, header.OldUsedWrap == 1))
            {
                // The driver has the batch: it is finished here.
                (header.OldFreeHead, header.OldUsedIndex, header.OldUsedWrap) = (header.FreeHead, header.UsedIndex, header.UsedWrap);
            }
        }

        _used = new PackedPosition(header.OldUsedIndex, header.OldUsedWrap == 1);
        (_freeHead, header.FreeHead) = (header.OldFreeHead, header.OldFreeHead);
        (header.UsedIndex, header.UsedWrap) = (header.OldUsedIndex, header.OldUsedWrap);
        var free = new HashSet<ushort>();
        for (ushort entry = _freeHead; entry < Size && free.Add(entry); entry = _next[entry])
        {
            entry = Clamped(entry);
            _entries[entry].Inflight = 0;
            // Once: what is followed later must be what was checked here. ORDER: a single read.
            _next[entry] = Volatile.Read(ref _entries[entry].Next);
        }

        string? doubt = Collect(free, out slots);
        *_header = header;
        return doubt;
    }

    private string? Collect(HashSet<ushort> free, out int slots)
    {
        slots = 0;
        var found = new List<(ulong Counter, ushort Head)>();
        for (ushort head = 0; head < Size; head++)
        {
            if (_entries[head].Inflight == 1)
            {
                found.Add((_entries[head].Counter, head));
            }
        }

        found.Sort();
        int room = Size - free.Count;
        foreach ((_, ushort head) in found)
        {
            int count = _entries[head].Count;
            slots += count;
            if (count == 0 || slots > room)
            {
                return $"entry {head} is said to have {count} descriptors, where {room} of {Size} entries are not free";
            }

            var descriptors = new PackedDescriptor[count];
            ushort entry = head;
            for (int i = 0; i < count; i++)
            {
                if (entry >= Size || !free.Add(entry))
                {
                    return $"the chain at entry {head} leads to entry {entry}, which is free, in another chain, or none";
                }

                entry = Clamped(entry);
                Entry copy = _entries[entry];
                descriptors[i] = new PackedDescriptor(
                    new BusAddress(copy.Address), PackedDescriptor.MakeControl(copy.Length, copy.Id, copy.Flags));
                _last[head] = entry;
                _next[entry] = copy.Next;
                entry = copy.Next;
            }

            _pending.Enqueue(descriptors);
            _pendingEntries.Enqueue(head);
        }

        _counter = found.Count == 0 ? 0 : found[^1].Counter + 1;
        return free.Count == Size ? null : $"only {free.Count} of {Size} entries are free or in flight";
    }

    private void Reset(PackedPosition used)
    {
        for (int i = 0; i < Size; i++)
        {
            _next[i] = (ushort)(i + 1);
            _entries[i] = new Entry { Next = (ushort)(i + 1) };
        }

        _counter = 0;
        _freeHead = 0;
        _used = used;
        byte wrap = used.Wrap ? (byte)1 : (byte)0;
        *_header = new Header
        {
            Count = (ushort)Size,
            UsedIndex = used.Slot,
            OldUsedIndex = used.Slot,
            UsedWrap = wrap,
            OldUsedWrap = wrap,
        };
        // ORDER: the version last: what it covers is there.
        Volatile.Write(ref _header->Version, Version);
    }

    /// <summary><c>QueueRegionPacked</c> without its entries.</summary>
    [StructLayout(LayoutKind.Explicit, Size = 32)]
    internal struct Header
    {
        [FieldOffset(0)]
        public ulong Features;

        [FieldOffset(8)]
        public ushort Version;

        [FieldOffset(10)]
        public ushort Count;

        [FieldOffset(12)]
        public ushort FreeHead;

        [FieldOffset(14)]
        public ushort OldFreeHead;

        [FieldOffset(16)]
        public ushort UsedIndex;

        [FieldOffset(18)]
        public ushort OldUsedIndex;

        [FieldOffset(20)]
        public byte UsedWrap;

        [FieldOffset(21)]
        public byte OldUsedWrap;
    }

    /// <summary><c>DescStatePacked</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct Entry
    {
        public byte Inflight;
        public byte Padding;
        public ushort Next;
        public ushort Last;
        public ushort Count;
        public ulong Counter;
        public ushort Id;
        public ushort Flags;
        public uint Length;
        public ulong Address;
    }
}
