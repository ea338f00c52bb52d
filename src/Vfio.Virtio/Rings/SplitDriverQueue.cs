using Vfio.Linux;

namespace Vfio.Virtio;

/// <summary>The driver's side of a split virtqueue (virtio 1.3, 2.7 "Split Virtqueues").</summary>
internal sealed unsafe class SplitDriverQueue : DriverQueue
{
    // SAFETY, for the whole class: the base class checked that the memory holds every part. Indices into the ring are masked or
    // our own. The device may write any of it: only the used ring, its flags and the available event are read, each once.
    private readonly uint _mask;
    private readonly Descriptor* _descriptors;
    private readonly ushort* _availFlags;
    private readonly ushort* _availIndex;
    private readonly ushort* _availRing;
    private readonly ushort* _usedEvent;
    private readonly ushort* _usedFlags;
    private readonly ushort* _usedIndex;
    private readonly ulong* _usedRing;
    private readonly ushort* _availEvent;

    // Free descriptors and those of each chain are linked here, not in the table, where the device could change the links.
    private readonly ushort[] _next;
    private readonly ushort[] _heads;
    private ushort _firstFree;
    private ushort _cachedUsed;

    // How many chains were ever reaped; its low 16 bits are the used index that comes next.
    private ulong _reaped;

    // What the used element that was read last stands for and was not handed out yet.
    private int _batch;
    private ushort _batchId;
    private uint _batchWritten;

    public SplitDriverQueue(int size, VirtioFeatures features, PinnedBuffer memory, int indirectEntries)
        : base(size, features & ~VirtioFeatures.RingPacked, memory, indirectEntries)
    {
        _mask = (uint)size - 1;
        _descriptors = (Descriptor*)Addresses.Descriptors.Value;
        _availFlags = (ushort*)Addresses.Driver.Value;
        _availIndex = _availFlags + 1;
        _availRing = _availFlags + 2;
        _usedEvent = _availRing + size;
        _usedFlags = (ushort*)Addresses.Device.Value;
        _usedIndex = _usedFlags + 1;
        _usedRing = (ulong*)(_usedFlags + 2);
        _availEvent = (ushort*)(_usedRing + size);
        _heads = new ushort[size];
        _next = new ushort[size];
        for (int i = 0; i < size; i++)
        {
            _next[i] = (ushort)((i + 1) & _mask);
        }
    }

    // ORDER: a hint only; Reap acquires for itself.
    public override bool HasCompletion => _batch != 0 || Barriers.ReadAcquire(_usedIndex) != NextUsed;

    public override IovaRange DeviceWritten => RangeOf(DeviceArea, RingAddresses.DeviceBytes(Size, VirtioFeatures.None));

    private ushort NextUsed => unchecked((ushort)_reaped);

    public override bool Publish()
    {
        if (Added == Published)
        {
            return false;
        }

        ushort previous = unchecked((ushort)Published);
        ushort next = unchecked((ushort)Added);

        // virtio 1.3, 2.7.13.3 "Updating idx".
        // ORDER: descriptors and ring entries before the index; pairs with the device's acquire of avail->idx.
        Barriers.WriteRelease(_availIndex, next);
        Published = Added;

        // ORDER: the index before the read of the device's suppression; pairs with the device's fence between enabling
        // notifications and its re-check of avail->idx.
        Barriers.StoreLoadFence();
        // ORDER: fresh reads after the fence.
        return HasEventIndex
            ? EventIndex.Crossed(Barriers.ReadAcquire(_availEvent), next, previous)
            : (Barriers.ReadAcquire(_usedFlags) & virtio_ring.VRING_USED_F_NO_NOTIFY) == 0;
    }

    public override int Reap(Span<Completion> completions)
    {
        if (Error != RingError.None)
        {
            return 0;
        }

        ushort nextUsed = NextUsed;
        int ready = unchecked((ushort)(_cachedUsed - nextUsed));
        if (ready < completions.Length)
        {
            // ORDER: the index before the used elements and the data; pairs with the device's release of used->idx.
            _cachedUsed = Barriers.ReadAcquire(_usedIndex);
            ready = unchecked((ushort)(_cachedUsed - nextUsed));
            // The device has used chains n to m only if it was given them.
            if (ready > unchecked((ushort)(Published - _reaped)))
            {
                Error = RingError.IndexJump;
                return 0;
            }
        }

        int count = 0;
        while (count < completions.Length && ready > 0)
        {
            if (_batch == 0 && !TryReadUsed(ready))
            {
                break;
            }

            _batch--;
            ready--;
            completions[count++] = _batch == 0 ? FinishHead(_batchId, _batchWritten) : FinishSkipped();
        }

        return count;
    }

    public override bool EnableNotifications()
    {
        if (HasEventIndex)
        {
            // virtio 1.3, 2.7.7 "Used Buffer Notification Suppression".
            // ORDER: nothing before it needs to be seen; the fence below does the work.
            Barriers.WriteRelease(_usedEvent, NextUsed);
        }
        else
        {
            // ORDER: as above.
            Barriers.WriteRelease(_availFlags, 0);
        }

        // ORDER: the wish before the re-check; pairs with the device's fence between publishing used->idx and reading the wish.
        Barriers.StoreLoadFence();
        return HasCompletion;
    }

    public override void DisableNotifications()
    {
        if (HasEventIndex)
        {
            // ORDER: advice only, pairs with nothing.
            Barriers.WriteRelease(_usedEvent, unchecked((ushort)(NextUsed - 1)));
        }
        else
        {
            // ORDER: advice only, pairs with nothing.
            Barriers.WriteRelease(_availFlags, virtio_ring.VRING_AVAIL_F_NO_INTERRUPT);
        }
    }

    private protected override ushort AddDirect(ReadOnlySpan<DmaSegment> chain)
    {
        ushort head = _firstFree;
        ushort index = head;
        for (int i = 0; i < chain.Length; i++)
        {
            bool last = i == chain.Length - 1;
            _descriptors[index] = Describe(chain[i], last ? (ushort)0 : _next[index], last);
            index = _next[index];
        }

        Offer(head, index);
        return head;
    }

    private protected override ushort AddIndirect(ReadOnlySpan<DmaSegment> chain)
    {
        ushort head = _firstFree;
        HostAddress table = TableOf(head);
        var entries = (Descriptor*)table.Value;
        for (int i = 0; i < chain.Length; i++)
        {
            entries[i] = Describe(chain[i], (ushort)(i + 1), i == chain.Length - 1);
        }

        _descriptors[head] = new Descriptor(
            BusOf(table).Value, (uint)(chain.Length * Descriptor.Bytes), virtio_ring.VRING_DESC_F_INDIRECT, 0);
        Offer(head, _next[head]);
        return head;
    }

    private static Descriptor Describe(DmaSegment segment, ushort next, bool last)
    {
        ushort flags = segment.Access == DeviceAccess.Write ? virtio_ring.VRING_DESC_F_WRITE : (ushort)0;
        flags |= last ? (ushort)0 : virtio_ring.VRING_DESC_F_NEXT;
        return new Descriptor(segment.Buffer.Iova.Value, (uint)segment.Buffer.Length, flags, last ? (ushort)0 : next);
    }

    private void Offer(ushort head, ushort nextFree)
    {
        _firstFree = nextFree;
        uint place = (uint)(Added & _mask);
        _availRing[place] = head;
        _heads[place] = head;
    }

    private bool TryReadUsed(int ready)
    {
        ulong element = _usedRing[NextUsed & _mask];
        uint id = (uint)(element & uint.MaxValue);
        uint written = (uint)(element >> 32);
        if (!IsPlausible(id, written))
        {
            return false;
        }

        // virtio 1.3, 2.7.9 "In-order use of descriptors": one element may stand for all chains up to the one that it names;
        // those are taken as used whole.
        ulong batch = IsInOrder ? Chains[id].Sequence - _reaped + 1 : 1;
        if (batch > (ulong)ready)
        {
            Error = RingError.UnknownBuffer;
            return false;
        }

        (_batch, _batchId, _batchWritten) = ((int)batch, (ushort)id, written);
        return true;
    }

    private Completion FinishSkipped()
    {
        ushort head = _heads[NextUsed & _mask];
        return FinishHead(head, Chains[head].Writable);
    }

    private Completion FinishHead(ushort head, uint written)
    {
        if (!IsInOrder)
        {
            // Last in, first out: the descriptors of the chain are still in cache. In order, the table is a ring already.
            ushort last = head;
            for (int i = 1; i < Chains[head].Descriptors; i++)
            {
                last = _next[last];
            }

            _next[last] = _firstFree;
            _firstFree = head;
        }

        _reaped++;
        return Finish(head, written);
    }
}
