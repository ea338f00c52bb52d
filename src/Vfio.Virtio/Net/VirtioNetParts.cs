using System.Numerics;
using System.Runtime.InteropServices;
using Vfio.Linux;

namespace Vfio.Virtio;

/// <summary>What a network device was agreed to be: its queues, its buffers, and what it says of itself.</summary>
internal sealed record VirtioNetParts(VirtioNetInfo Info, DriverQueue Receive, DriverQueue Transmit, PinnedBuffer Buffers)
{
    /// <summary>Buffers that a frame may lie in at most, whatever the device's MTU is.</summary>
    public const int MostPieces = 64;

    private const int ConfigurationBytes = 12;
    private const int StandardMtu = 1500;
    private const int VlanTagBytes = 4;

    private const VirtioFeatures RingFeatures =
        VirtioFeatures.RingEventIdx | VirtioFeatures.RingPacked | VirtioFeatures.InOrder;

    public static VirtioPciTransport OpenTransport(VfioDevice device)
    {
        ushort vendor = device.Configuration.Read16(pci_regs.PCI_VENDOR_ID);
        ushort type = device.Configuration.Read16(pci_regs.PCI_DEVICE_ID);
        // virtio 1.3, 4.1.2 "PCI Device Discovery": 0x1040 + device type; 0x1000 is the transitional form of type 1.
        return vendor == 0x1AF4 && type is 0x1041 or 0x1000
            ? VirtioPciTransport.Open(device)
            : throw new VirtioException(device.Address, $"PCI device {vendor:x4}:{type:x4} is no virtio network device",
                "a virtio network device is 1af4:1041", "vfiopin device list shows what each device is");
    }

    /// <summary>Agrees on features, and lays the queues and the buffers out in the arena.</summary>
    public static VirtioNetParts Of(VirtioPciTransport transport, PinnedBuffer arena, VirtioNetOptions options)
    {
        NetFeatures wanted = NetFeatures.Mac | NetFeatures.Status | NetFeatures.Mtu
            | (options.MergeBuffers ? NetFeatures.MrgRxbuf : NetFeatures.None);
        VirtioFeatures features = transport.Negotiate((VirtioFeatures)wanted | (options.RingFeatures & RingFeatures));
        DriverQueue receive = NewQueue(
            transport, VirtioNetDevice.ReceiveQueue, features, options, arena.Slice(0, options.QueueBytes));
        DriverQueue transmit = NewQueue(
            transport, VirtioNetDevice.TransmitQueue, features, options, arena.Slice(options.QueueBytes, options.QueueBytes));
        return new VirtioNetParts(
            ReadInfo(transport, options, receive, transmit),
            receive,
            transmit,
            arena.Slice(options.RingBytes, options.BufferCount * options.BufferBytes));
    }

    private static DriverQueue NewQueue(
        VirtioPciTransport transport, int index, VirtioFeatures features, VirtioNetOptions options, PinnedBuffer memory)
    {
        int size = Math.Min(options.QueueSize, transport.MaxQueueSize(index));

        // virtio 1.3, 2.7: a split queue's size is a power of two; a device that says otherwise gets the next lower one.
        size = size == 0 || RingAddresses.IsValidSize(size, features) ? size : 1 << BitOperations.Log2((uint)size);
        return size >= 2 ? DriverQueue.Create(size, features, memory)
            : throw transport.Fail($"queue {index} has {transport.MaxQueueSize(index)} entries", "a network card needs two queues of at least two");
    }

    private static VirtioNetInfo ReadInfo(VirtioPciTransport transport, VirtioNetOptions options, DriverQueue receive, DriverQueue transmit)
    {
        var net = (NetFeatures)transport.Features;
        Span<byte> configuration = stackalloc byte[ConfigurationBytes];
        configuration.Clear();
        int known = transport.ReadConfiguration(configuration);
        bool hasMac = net.HasFlag(NetFeatures.Mac);
        bool hasMtu = net.HasFlag(NetFeatures.Mtu);
        if (known < (hasMtu ? 12 : hasMac || net.HasFlag(NetFeatures.Status) ? 8 : 0))
        {
            throw transport.Fail($"its configuration has {known} bytes, too few for what it offers", "the device does not keep to the specification");
        }

        int mtu = hasMtu ? MemoryMarshal.Read<ushort>(configuration[10..]) : StandardMtu;
        // virtio 1.3, 5.1.4.1: 68 to 65535.
        if (mtu < 68)
        {
            throw transport.Fail($"it says that its MTU is {mtu}", "the device does not keep to the specification");
        }

        int largest = NetHeader.Bytes + VirtioNetDevice.MinFrameBytes + VlanTagBytes + mtu;
        int pieces = (largest + options.BufferBytes - 1) / options.BufferBytes;
        int most = Math.Min(MostPieces, Math.Min(receive.Size, transmit.Size));
        if (pieces > (net.HasFlag(NetFeatures.MrgRxbuf) ? most : 1))
        {
            throw transport.Fail(
                $"a frame of its MTU of {mtu} bytes takes {pieces} buffers of {options.BufferBytes} bytes",
                net.HasFlag(NetFeatures.MrgRxbuf) ? $"{most} are possible" : "it has no VIRTIO_NET_F_MRG_RXBUF, so each frame is in one",
                "use larger buffers");
        }

        return new VirtioNetInfo(
            hasMac ? MacAddress.Read(configuration) : null,
            mtu,
            transport.Features & ~(VirtioFeatures)0xFF_FFFF,
            net & (NetFeatures)0xFF_FFFF,
            receive.Size,
            transmit.Size,
            pieces);
    }
}
