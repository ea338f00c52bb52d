using System.Buffers.Binary;
using Vfio.Linux;
using Vfio.Testing;

namespace Vfio.Virtio.Tests;

/// <summary>A ring that a hostile driver writes as it likes: every word of it, and what lies behind the addresses, between guard
/// pages.</summary>
internal sealed class RawRing : IDisposable
{
    public const int Size = 8;
    public const ulong DataBus = 0x1_0000_0000;
    public const int DataBytes = 4096;
    public const ushort Next = virtio_ring.VRING_DESC_F_NEXT;
    public const ushort Write = virtio_ring.VRING_DESC_F_WRITE;
    public const ushort Indirect = virtio_ring.VRING_DESC_F_INDIRECT;

    private readonly bool _packed;

    public RawRing(bool packed, VirtioFeatures features = VirtioFeatures.RingIndirectDesc)
    {
        _packed = packed;
        features |= packed ? VirtioFeatures.RingPacked : VirtioFeatures.None;
        Descriptors = new GuardedMemory((int)RingAddresses.DescriptorBytes(Size));
        Driver = new GuardedMemory((int)RingAddresses.DriverBytes(Size, features), alignment: 2);
        Device = new GuardedMemory((int)RingAddresses.DeviceBytes(Size, features), alignment: 2);
        // The device area is aligned to 4, so flush with the guard before it where its length is not.
        if (!Device.Address.IsAligned(4) || (packed && !Driver.Address.IsAligned(4)))
        {
            Device.Dispose();
            Device = new GuardedMemory((int)RingAddresses.DeviceBytes(Size, features), atStart: true);
        }

        Data = new GuardedMemory(DataBytes);
        var addresses = new RingAddresses(Descriptors.Address, Driver.Address, Device.Address);
        Queue = DeviceQueue.Create(Size, addresses, features);
        Translator = new PlainTranslator(DataBus, Data.Address, DataBytes);
    }

    public GuardedMemory Descriptors { get; }

    public GuardedMemory Driver { get; }

    public GuardedMemory Device { get; }

    public GuardedMemory Data { get; }

    public DeviceQueue Queue { get; }

    public PlainTranslator Translator;

    public DescriptorChain[] Chains { get; } = new DescriptorChain[32];

    public HostSegment[] Segments { get; } = new HostSegment[64];

    /// <summary>Puts a descriptor into the ring's table; in the packed layout it is available on the first pass.</summary>
    public void Set(int slot, ulong address, uint length, int flags, int nextOrId = 0) =>
        SetAt(Descriptors.Span[(16 * slot)..], address, length, flags | (_packed ? PackedDescriptor.AvailFlag : 0), nextOrId);

    /// <summary>Puts an entry of an indirect table into the data memory.</summary>
    public void SetEntry(int offset, ulong address, uint length, int flags, int next = 0) =>
        SetAt(Data.Span[offset..], address, length, flags, next);

    /// <summary>Split: makes heads available.</summary>
    public void Offer(params ushort[] heads)
    {
        if (_packed)
        {
            return;
        }

        ushort index = BinaryPrimitives.ReadUInt16LittleEndian(Driver.Span[2..]);
        foreach (ushort head in heads)
        {
            BinaryPrimitives.WriteUInt16LittleEndian(Driver.Span[(4 + (2 * (index++ % Size)))..], head);
        }

        SetIndex(index);
    }

    public void SetIndex(ushort index) => BinaryPrimitives.WriteUInt16LittleEndian(Driver.Span[2..], index);

    public int Peek() => Queue.Peek(ref Translator, Chains, Segments);

    public void Dispose()
    {
        Descriptors.Dispose();
        Driver.Dispose();
        Device.Dispose();
        Data.Dispose();
    }

    private void SetAt(Span<byte> place, ulong address, uint length, int flags, int nextOrId)
    {
        BinaryPrimitives.WriteUInt64LittleEndian(place, address);
        BinaryPrimitives.WriteUInt32LittleEndian(place[8..], length);
        BinaryPrimitives.WriteUInt16LittleEndian(place[(_packed ? 14 : 12)..], (ushort)flags);
        BinaryPrimitives.WriteUInt16LittleEndian(place[(_packed ? 12 : 14)..], (ushort)nextOrId);
    }
}
