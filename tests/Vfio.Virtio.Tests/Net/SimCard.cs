using Vfio.Linux;
using Vfio.Testing;

namespace Vfio.Virtio.Tests;

/// <summary>A simulated machine with one virtio-net device, opened through VFIO with pinned memory.</summary>
internal sealed class SimCard : IDisposable
{
    private static readonly Iova Base = new(0x8_0000_0000);
    private static readonly PciAddress Address = PciAddress.Parse("0000:01:00.0");
    private readonly SimHost _host = new();
    private readonly VfioContainer _container;
    private readonly MappedMemory _memory;
    private readonly VirtioNetOptions _options;

    public SimCard(SimVirtioNetOptions? model = null, VirtioNetOptions? options = null)
    {
        _options = options ?? new VirtioNetOptions();
        Model = _host.Add(new SimVirtioNet(Address, model), 3);
        _container = _host.OpenContainer();
        Device = _container.OpenDevice(Address);
        _memory = MappedMemory.Anonymous((ulong)(_options.ArenaBytes + 4095) & ~4095ul);
        _container.Iommu.Map(Range, new HostAddress((ulong)_memory.Address), DmaAccess.ReadWrite);
    }

    public SimVirtioNet Model { get; }

    public VfioDevice Device { get; }

    public SimKernel Kernel => _host.Kernel;

    public IovaRange Range => IovaRange.Of(Base, _memory.Length);

    public VirtioNetDevice Open() =>
        VirtioNetDevice.Open(Device, new PinnedBuffer(Base, new HostAddress((ulong)_memory.Address), _options.ArenaBytes), _options);

    /// <summary>A frame of random bytes.</summary>
    public static byte[] Frame(int length)
    {
        byte[] frame = new byte[length];
        Random.Shared.NextBytes(frame);
        return frame;
    }

    /// <summary>Takes the memory away from the device: whatever it does from now on is a fault that fails the test.</summary>
    public void Unmap() => _container.Iommu.Unmap(Range);

    public void Dispose()
    {
        _container.Dispose();
        _memory.Dispose();
        Kernel.AssertNoFaults();
        _host.Dispose();
    }
}
