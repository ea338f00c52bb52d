using Vfio.Linux;

namespace Vfio.Testing;

/// <summary>A machine for a test: a simulated kernel, and a sysfs that shows the same devices, bound to vfio-pci.</summary>
public sealed class SimHost : IDisposable
{
    private readonly PciSysfsTree _tree = new();

    public SimHost(KernelBehaviour? behaviour = null)
        : this(new SimKernel(behaviour))
    {
    }

    /// <summary>A host around a kernel of the test's own, which it then owns.</summary>
    public SimHost(SimKernel kernel)
    {
        Kernel = kernel;
        _tree.AddDriver(VfioDriver);
    }

    public SimKernel Kernel { get; }

    public PciSysfsTree Tree => _tree;

    public Sysfs Sysfs => _tree.Sysfs;

    private static string VfioDriver => "vfio-pci";

    /// <summary>Plugs a device in.</summary>
    /// <returns>The device.</returns>
    public T Add<T>(T device, int group)
        where T : SimPciDevice
    {
        ArgumentNullException.ThrowIfNull(device);
        Kernel.Add(device, group);
        _tree.AddDevice(device.Address.ToString(), group, VfioDriver, device.Vendor, device.DeviceId, device.ClassCode);
        return device;
    }

    /// <summary>Opens a container on it.</summary>
    public VfioContainer OpenContainer() => VfioContainer.Open(Kernel, Sysfs);

    public void Dispose()
    {
        _tree.Dispose();
        Kernel.Dispose();
    }
}
