using Vfio.Linux;

namespace Vfio.Virtio;

/// <summary>The driver's side of a packed virtqueue (virtio 1.3, 2.8 "Packed Virtqueues").</summary>
internal sealed unsafe class PackedDriverQueue : DriverQueue
{
    // SAFETY, for the whole class: the base class checked that the memory holds every part. Slots are our own, below Size. The
    // device may write any of it: only descriptors that it marks used and its event suppression are read, each once.
    private readonly ulong* _ring;
    private readonly uint* _driverEvent;
    private readonly uint* _deviceEvent;

    // Ids not in use, a stack. In order, a chain's id is its first slot instead.
    private readonly ushort[] _freeIds;
    private int _freeIdCount;
    private PackedPosition _nextAvail = PackedPosition.Start;
    private PackedPosition _nextUsed = PackedPosition.Start;

    // The first descriptor since the last Publish, and what its flags are to become.
    private int _unpublished;
    private int _firstSlot;
    private ulong _firstControl;

    // What the used descriptor that was read last stands for and was not handed out yet.
    private int _batch;
    private ushort _batchId;
    private uint _batchWritten;

    public PackedDriverQueue(int size, VirtioFeatures features, PinnedBuffer memory, int indirectEntries)
        : base(size, features | VirtioFeatures.RingPacked, memory, indirectEntries)
    {
        _ring = (ulong*)Addresses.Descriptors.Value;
        _driverEvent = (uint*)Addresses.Driver.Value;
        _deviceEvent = (uint*)Addresses.Device.Value;
        _freeIds = new ushort[size];
        for (int i = 0; i < size; i++)
        {
            _freeIds[i] = (ushort)(size - 1 - i);
        }

        _freeIdCount = size;
    }

    public override bool HasCompletion =>
        // ORDER: a hint only; Reap acquires for itself.
        _batch != 0
        || (Outstanding != 0
            && PackedDescriptor.IsUsed(Barriers.ReadAcquire(_ring + (2 * _nextUsed.Slot) + 1), _nextUsed.Wrap));

    // The device area follows the ring and the driver area.
    public override IovaRange DeviceWritten =>
        new(new Iova(DescriptorArea.Value), RangeOf(DeviceArea, RingAddresses.DeviceBytes(Size, VirtioFeatures.RingPacked)).Last);

    public override bool Publish()
    {
        int count = _unpublished;
        if (count == 0)
        {
            return false;
        }

        // virtio 1.3, 2.8.21.1 "Placing Available Buffers Into The Descriptor Ring": the first descriptor of the batch last.
        // ORDER: all other descriptors before the first one's flags; pairs with the device's acquire of those flags.
        Barriers.WriteRelease(_ring + (2 * _firstSlot) + 1, _firstControl);
        _unpublished = 0;
        Published = Added;

        // ORDER: the flags before the read of the device's suppression; pairs with the device's fence between enabling
        // notifications and its re-check.
        Barriers.StoreLoadFence();
        // ORDER: a fresh read after the fence; offset and flags in one.
        return EventIndex.CrossedPacked(Barriers.ReadAcquire(_deviceEvent), _nextAvail, count, Size, HasEventIndex);
    }

    public override int Reap(Span<Completion> completions)
    {
        int count = 0;
        while (count < completions.Length && Error == RingError.None)
        {
            if (_batch == 0 && !TryReadUsed())
            {
                break;
            }

            _batch--;
            // In order, a chain's id is its first slot, so the oldest is named by where we are.
            ushort id = _batch == 0 ? _batchId : _nextUsed.Slot;
            completions[count++] = FinishChain(id, _batch == 0 ? _batchWritten : Chains[id].Writable);
        }

        return count;
    }

    public override bool EnableNotifications()
    {
        uint wish = HasEventIndex
            ? _nextUsed.Raw | ((uint)virtio_ring.VRING_PACKED_EVENT_FLAG_DESC << 16)
            : (uint)virtio_ring.VRING_PACKED_EVENT_FLAG_ENABLE << 16;
        // ORDER: offset and flags in one store; the fence below does the work.
        Barriers.WriteRelease(_driverEvent, wish);

        // ORDER: the wish before the re-check; pairs with the device's fence between publishing and reading the wish.
        Barriers.StoreLoadFence();
        return HasCompletion;
    }

    public override void DisableNotifications() =>
        // ORDER: advice only, pairs with nothing.
        Barriers.WriteRelease(_driverEvent, (uint)virtio_ring.VRING_PACKED_EVENT_FLAG_DISABLE << 16);

    private protected override ushort AddDirect(ReadOnlySpan<DmaSegment> chain)
    {
        ushort id = TakeId();
        for (int i = 0; i < chain.Length; i++)
        {
            ushort flags = i == chain.Length - 1 ? (ushort)0 : virtio_ring.VRING_DESC_F_NEXT;
            Write(chain[i].Buffer.Iova.Value, (uint)chain[i].Buffer.Length, id, (ushort)(flags | WriteFlag(chain[i])));
        }

        return id;
    }

    private protected override ushort AddIndirect(ReadOnlySpan<DmaSegment> chain)
    {
        ushort id = TakeId();
        HostAddress table = TableOf(id);
        var entries = (ulong*)table.Value;
        for (int i = 0; i < chain.Length; i++)
        {
            // virtio 1.3, 2.8.7 "Indirect Flag: Scatter-Gather Support": only WRITE means anything in a table.
            entries[2 * i] = chain[i].Buffer.Iova.Value;
            entries[(2 * i) + 1] = PackedDescriptor.MakeControl((uint)chain[i].Buffer.Length, 0, WriteFlag(chain[i]));
        }

        Write(BusOf(table).Value, (uint)(chain.Length * Descriptor.Bytes), id, virtio_ring.VRING_DESC_F_INDIRECT);
        return id;
    }

    private static ushort WriteFlag(DmaSegment segment) =>
        segment.Access == DeviceAccess.Write ? virtio_ring.VRING_DESC_F_WRITE : (ushort)0;

    // virtio 1.3, 2.8.9 "In-order use of descriptors" leaves the choice of ids to the driver: the first slot is free of doubt.
    private ushort TakeId() => IsInOrder ? _nextAvail.Slot : _freeIds[--_freeIdCount];

    private void Write(ulong address, uint length, ushort id, ushort flags)
    {
        flags |= _nextAvail.Wrap ? PackedDescriptor.AvailFlag : PackedDescriptor.UsedFlag;
        ulong control = PackedDescriptor.MakeControl(length, id, flags);
        _ring[2 * _nextAvail.Slot] = address;
        if (_unpublished == 0)
        {
            _firstSlot = _nextAvail.Slot;
            _firstControl = control;
        }
        else
        {
            _ring[(2 * _nextAvail.Slot) + 1] = control;
        }

        _unpublished++;
        _nextAvail = _nextAvail.Advance(1, Size);
    }

    private bool TryReadUsed()
    {
        // ORDER: id, length and flags before the data; pairs with the device's release of them.
        ulong control = Barriers.ReadAcquire(_ring + (2 * _nextUsed.Slot) + 1);
        if (Outstanding == 0 || !PackedDescriptor.IsUsed(control, _nextUsed.Wrap))
        {
            return false;
        }

        var used = new PackedDescriptor(default, control);
        // virtio 1.3, 2.8.5 "Element Address and Length": without WRITE the length is reserved. QEMU never sets WRITE and gives
        // the length all the same, so there it counts where the chain could hold it.
        uint written = used.Length;
        if (!used.IsWritable && used.Id < Size && written > Chains[used.Id].Writable)
        {
            written = 0;
        }

        if (!IsPlausible(used.Id, written))
        {
            return false;
        }

        int batch = 1;
        if (IsInOrder)
        {
            // virtio 1.3, 2.8.9: one used descriptor may stand for all chains up to the one that it names.
            batch = (int)(Chains[used.Id].Sequence - Chains[_nextUsed.Slot].Sequence) + 1;
        }

        (_batch, _batchId, _batchWritten) = (batch, used.Id, written);
        return true;
    }

    private Completion FinishChain(ushort id, uint written)
    {
        _nextUsed = _nextUsed.Advance(Chains[id].Descriptors, Size);
        if (!IsInOrder)
        {
            _freeIds[_freeIdCount++] = id;
        }

        return Finish(id, written);
    }
}
