using Vfio.Linux;

namespace Vfio.Service;

/// <summary>One I/O address space: a container, its pinner, the devices in it, and the pools that are pinned there.</summary>
/// <remarks>Not thread-safe; the engine's lock covers it.</remarks>
internal sealed class AddressSpace : IDisposable
{
    private readonly VfioContainer _container;
    private readonly SortedDictionary<PciAddress, OpenDevice> _devices = [];

    private AddressSpace(VfioContainer container) => _container = container;

    public IReadOnlyCollection<OpenDevice> Devices => _devices.Values;

    public Pinner Pinner { get; private set; } = null!;

    public FileDescriptor ContainerDescriptor => _container.Descriptor;

    public IReadOnlyCollection<VfioGroup> Groups => _container.Groups;

    /// <summary>How many pools are pinned here.</summary>
    public int References { get; set; }

    /// <summary>Opens a container with devices in it; all of them or nothing.</summary>
    public static AddressSpace Open(IKernel kernel, PciBus bus, IReadOnlyList<PciAddress> devices)
    {
        // Asked first, so that a machine without an IOMMU is told so and not that a file is missing.
        foreach (PciAddress address in devices)
        {
            bus.GetGroup(bus.Get(address));
        }

        var space = new AddressSpace(VfioContainer.Open(kernel, bus.Sysfs));
        try
        {
            foreach (PciAddress address in devices)
            {
                space.Add(address);
            }

            space.Pinner = new Pinner(space._container.Iommu, bus.Sysfs);
            return space;
        }
        catch
        {
            space.Dispose();
            throw;
        }
    }

    /// <summary>The device, opened into this address space if it is not here yet.</summary>
    public OpenDevice Add(PciAddress address)
    {
        if (!_devices.TryGetValue(address, out OpenDevice? device))
        {
            device = new OpenDevice(_container.OpenDevice(address));
            _devices.Add(address, device);
        }

        return device;
    }

    public OpenDevice? Find(PciAddress address) => _devices.GetValueOrDefault(address);

    /// <summary>Closes devices, groups and the container.</summary>
    public void Dispose()
    {
        _devices.Clear();
        _container.Dispose();
    }
}
