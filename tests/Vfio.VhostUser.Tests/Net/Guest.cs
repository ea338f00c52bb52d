using System.Runtime.InteropServices;
using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.VhostUser.Tests.Net;

/// <summary>A guest's memory with drivers' sides of rings in it, and the device's side of the same rings over its own mapping.</summary>
internal sealed class Guest : IDisposable
{
    private const ulong Length = 16 << 20;
    private static readonly GuestPhysicalAddress First = new(0x4000_0000);

    private readonly FileDescriptor _file = MemoryFile.Create("guest", Length);
    private readonly MappedMemory _mapping;
    private readonly GuestMemoryRegion _region;
    private readonly PinnedPool _pool;
    private ulong _used;

    public Guest()
    {
        _mapping = MappedMemory.Map(_file, 0, Length, writable: true);
        _region = GuestMemoryRegion.Map(First, new FrontendAddress(0x7000_0000), Length, _file, default);
        Memory = GuestMemory.Of([_region]);
        _pool = PinnedPool.Create(new PinnedPoolOptions
        {
            Name = "frames",
            Size = FrameBatch.Capacity * FrameBatch.BufferSize,
            Backings = [MemoryBacking.Pages4KiB],
            BufferSize = FrameBatch.BufferSize,
        });
        Batch = new FrameBatch(_pool);
    }

    public GuestMemory Memory { get; }

    public FrameBatch Batch { get; }

    /// <summary>The guest physical address of what <see cref="Allocate"/> gave: to the driver, the device's address.</summary>
    public static GuestPhysicalAddress AddressOf(PinnedBuffer buffer) => new(buffer.Iova.Value);

    public PinnedBuffer Allocate(int length)
    {
        var buffer = new PinnedBuffer(new Iova(First.Value + _used), new HostAddress((ulong)_mapping.Address + _used), length);
        _used += ((ulong)length + 127) & ~127ul;
        Assert.IsLessThanOrEqualTo(Length, _used);
        return buffer;
    }

    public (DriverQueue Driver, TransmitQueue Device) Transmit(VirtioFeatures features, int size = 256, DirtyLog? log = null)
    {
        (DriverQueue driver, VringConfiguration ring) = Ring(1, features, size, log);
        return (driver, TransmitQueue.Create(ring, new NetQueueCounters()));
    }

    public (DriverQueue Driver, ReceiveQueue Device) Receive(
        VirtioFeatures features, int size = 256, DirtyLog? log = null, IotlbView? iotlb = null)
    {
        (DriverQueue driver, VringConfiguration ring) = Ring(0, features, size, log);
        return (driver, ReceiveQueue.Create(ring with { Iotlb = iotlb }, new NetQueueCounters()));
    }

    private (DriverQueue Driver, VringConfiguration Ring) Ring(int index, VirtioFeatures features, int size, DirtyLog? log)
    {
        _used = (_used + 4095) & ~4095ul;
        var driver = DriverQueue.Create(size, features, Allocate(DriverQueue.BytesFor(size, features, 64)), 64);
        return (driver, new VringConfiguration
        {
            Index = index,
            Size = size,
            Features = features,
            Addresses = new RingAddresses(Host(driver.DescriptorArea), Host(driver.DriverArea), Host(driver.DeviceArea)),
            Memory = Memory,
            Position = RingPosition.Start(features),
            Enabled = true,
            Log = log,
            LoggedAreas = log is null ? [] : [.. Written(driver, features, size)],
        });
    }

    private static IEnumerable<(GuestPhysicalAddress Address, ulong Length)> Written(DriverQueue driver, VirtioFeatures features, int size)
    {
        yield return (new GuestPhysicalAddress(driver.DeviceArea.Value), RingAddresses.DeviceBytes(size, features));
        if (features.HasFlag(VirtioFeatures.RingPacked))
        {
            yield return (new GuestPhysicalAddress(driver.DescriptorArea.Value), RingAddresses.DescriptorBytes(size));
        }
    }

    /// <summary>Sends a frame, with its header, cut into pieces of these sizes; the last takes the rest.</summary>
    public void Send(DriverQueue driver, ReadOnlySpan<byte> frame, NetHeader header = default, params int[] cuts)
    {
        byte[] whole = [.. MemoryMarshal.AsBytes(new ReadOnlySpan<NetHeader>(in header)), .. frame];
        var pieces = new List<DmaSegment>();
        int at = 0;
        foreach (int cut in cuts.Append(int.MaxValue))
        {
            int length = Math.Min(cut, whole.Length - at);
            if (length > 0)
            {
                PinnedBuffer piece = Allocate(length);
                whole.AsSpan(at, length).CopyTo(piece.Span);
                pieces.Add(new DmaSegment(piece, DeviceAccess.Read));
                at += length;
            }
        }

        Assert.IsTrue(driver.TryAdd([.. pieces], out _));
        driver.Publish();
    }

    /// <summary>Gives the device a buffer.</summary>
    public PinnedBuffer Offer(DriverQueue driver, int length, Dictionary<ushort, PinnedBuffer> buffers)
    {
        PinnedBuffer buffer = Allocate(length);
        Assert.IsTrue(driver.TryAdd([new DmaSegment(buffer, DeviceAccess.Write)], out ushort id));
        buffers.Add(id, buffer);
        driver.Publish();
        return buffer;
    }

    public void Dispose()
    {
        Batch.Dispose();
        _pool.Dispose();
        _region.Dispose();
        _mapping.Dispose();
        _file.Dispose();
    }

    private HostAddress Host(BusAddress address) => _region.Host + (address.Value - First.Value);
}
