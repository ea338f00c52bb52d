using Vfio.Linux;
using Vfio.Testing;

namespace Vfio.Virtio.Tests;

/// <summary>A simulated machine with one virtio-blk device, opened through VFIO with pinned memory.</summary>
internal sealed class SimDisk : IDisposable
{
    private static readonly Iova Base = new(0x8_0000_0000);
    private static readonly PciAddress Address = PciAddress.Parse("0000:00:04.0");
    private readonly SimHost _host = new();
    private readonly VfioContainer _container;
    private readonly MappedMemory _memory;
    private readonly VirtioBlockOptions _options;
    private readonly int _arenaBytes;

    public SimDisk(SimVirtioBlockOptions? model = null, VirtioBlockOptions? options = null, int dataBytes = 1 << 20)
    {
        _options = options ?? new VirtioBlockOptions { Timeout = TimeSpan.FromSeconds(20) };
        _arenaBytes = (_options.ArenaBytes + 4095) & ~4095;
        Model = _host.Add(new SimVirtioBlock(Address, model), 3);
        Random.Shared.NextBytes(Model.Medium);
        _container = _host.OpenContainer();
        Device = _container.OpenDevice(Address);
        _memory = MappedMemory.Anonymous((ulong)(_arenaBytes + dataBytes));
        _container.Iommu.Map(Range, new HostAddress((ulong)_memory.Address), DmaAccess.ReadWrite);
    }

    public SimVirtioBlock Model { get; }

    public SimKernel Kernel => _host.Kernel;

    public VfioDevice Device { get; }

    public IovaRange Range => IovaRange.Of(Base, _memory.Length);

    public VirtioBlockDevice Open() =>
        VirtioBlockDevice.Open(Device, new PinnedBuffer(Base, new HostAddress((ulong)_memory.Address), _options.ArenaBytes), _options);

    public PinnedBuffer Data(int offset, int length) =>
        new(Base + (ulong)(_arenaBytes + offset), new HostAddress((ulong)_memory.Address) + (ulong)(_arenaBytes + offset), length);

    public PinnedBuffer[] Buffers(int count, int length) =>
        [.. Enumerable.Range(0, count).Select(i => Data(i * length, length))];

    /// <summary>Takes the memory away from the device: whatever it does from now on is a fault that fails the test.</summary>
    public void Unmap() => _container.Iommu.Unmap(Range);

    public void Dispose()
    {
        _container.Dispose();
        _memory.Dispose();
        _host.Dispose();
    }
}
