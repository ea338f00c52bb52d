using System.Runtime.InteropServices;
using Vfio.Virtio;

namespace Vfio.VhostUser;

/// <summary>The record of a split ring.</summary>
internal sealed unsafe class SplitInflight : InflightRecord
{
    // SAFETY, for the whole class: the buffer holds a header and Size entries; indices are our own or checked against Size. The
    // front-end may write it at any time, which harms only what it gets back after a restart.
    private const ushort Version = 1;

    private readonly Header* _header;
    private readonly Entry* _entries;
    private readonly Queue<ushort> _pending = new();
    private ulong _counter;
    private ushort _usedIndex;
    private ushort _lastHead;

    public SplitInflight(HostAddress region, int size)
        : base(size)
    {
        _header = (Header*)region.Value;
        _entries = (Entry*)(_header + 1);
    }

    public override bool HasPending => _pending.Count != 0;

    internal override RingPosition Recover(RingAddresses ring, RingPosition start, out string? doubt)
    {
        ushort used = ring.ReadUsedIndex();
        ushort avail = ring.ReadAvailIndex();
        _pending.Clear();
        doubt = _header->Version == 0 ? null : TryRead(used, avail);
        if (_header->Version == 0 || doubt is not null)
        {
            Reset(used);
            return new RingPosition(used, used);
        }

        _usedIndex = used;
        return new RingPosition(unchecked((ushort)(used + _pending.Count)), used);
    }

    internal override bool Resubmit<TTranslator>(
        DeviceQueue queue, ref TTranslator translator, out DescriptorChain chain, Span<HostSegment> segments)
    {
        bool resolved = ((SplitDeviceQueue)queue).Resolve(ref translator, _pending.Peek(), out chain, segments);
        if (resolved)
        {
            _pending.Dequeue();
        }

        return resolved;
    }

    internal override void Take(DeviceQueue queue, ReadOnlySpan<DescriptorChain> chains)
    {
        foreach (ref readonly DescriptorChain chain in chains)
        {
            Entry* entry = _entries + Clamped(chain.Id);
            entry->Counter = _counter++;
            // ORDER: the counter before the mark that it is valid; a successor reads it after our death.
            Volatile.Write(ref entry->Inflight, 1);
        }
    }

    internal override void Use(ReadOnlySpan<UsedChain> used)
    {
        foreach (UsedChain chain in used)
        {
            _entries[Clamped(chain.Id)].Next = _lastHead;
            _lastHead = chain.Id;
            // ORDER: the link before the head of the list; as in Take.
            Volatile.Write(ref _header->LastBatchHead, chain.Id);
        }
    }

    internal override void Commit(ReadOnlySpan<UsedChain> used)
    {
        foreach (UsedChain chain in used)
        {
            // ORDER: after the ring's used index, which Publish stored with release; as in Take.
            Volatile.Write(ref _entries[Clamped(chain.Id)].Inflight, 0);
        }

        _usedIndex = unchecked((ushort)(_usedIndex + used.Length));
        // ORDER: after every mark of the batch is gone; as in Take.
        Volatile.Write(ref _header->UsedIndex, _usedIndex);
    }

    // "When reconnecting". Null when the record fits the ring.
    private string? TryRead(ushort used, ushort avail)
    {
        int unfinished = unchecked((ushort)(used - _header->UsedIndex));
        int outstanding = unchecked((ushort)(avail - used));
        if (_header->Version != Version || _header->Count != Size)
        {
            return $"version {_header->Version} for {_header->Count} entries, not 1 for {Size}";
        }

        if (unfinished > Size || outstanding > Size)
        {
            return $"the ring's indices (available {avail}, used {used}) and the record's ({_header->UsedIndex}) are further apart than the ring is long";
        }

        ushort head = _header->LastBatchHead;
        for (int i = 0; i < unfinished; i++)
        {
            if (head >= Size)
            {
                return $"the last batch leads to entry {head}";
            }

            Entry* entry = _entries + Clamped(head);
            entry->Inflight = 0;
            head = entry->Next;
        }

        _header->UsedIndex = used;
        _lastHead = _header->LastBatchHead;
        var found = new List<(ulong Counter, ushort Head)>();
        for (int i = 0; i < Size; i++)
        {
            if (_entries[i].Inflight == 1)
            {
                found.Add((_entries[i].Counter, (ushort)i));
            }
        }

        if (found.Count > outstanding)
        {
            return $"{found.Count} buffers are said to be in flight, and the driver has {outstanding} outstanding";
        }

        found.Sort();
        found.ForEach(f => _pending.Enqueue(f.Head));
        _counter = found.Count == 0 ? 0 : found[^1].Counter + 1;
        return null;
    }

    private void Reset(ushort used)
    {
        for (int i = 0; i < Size; i++)
        {
            _entries[i] = default;
        }

        _counter = 0;
        _lastHead = 0;
        _usedIndex = used;
        *_header = new Header { Count = (ushort)Size, UsedIndex = used };
        // ORDER: the version last: what it covers is there.
        Volatile.Write(ref _header->Version, Version);
    }

    /// <summary><c>QueueRegionSplit</c> without its entries.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct Header
    {
        public ulong Features;
        public ushort Version;
        public ushort Count;
        public ushort LastBatchHead;
        public ushort UsedIndex;
    }

    /// <summary><c>DescStateSplit</c>.</summary>
    [StructLayout(LayoutKind.Explicit, Size = 16)]
    internal struct Entry
    {
        [FieldOffset(0)]
        public byte Inflight;

        [FieldOffset(6)]
        public ushort Next;

        [FieldOffset(8)]
        public ulong Counter;
    }
}
