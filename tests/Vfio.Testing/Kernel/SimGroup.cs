using Vfio.Linux;

namespace Vfio.Testing;

/// <summary>An IOMMU group with its devices (<c>drivers/vfio/group.c</c>).</summary>
public sealed class SimGroup
{
    private readonly SimKernel _kernel;
    private readonly List<SimPciDevice> _devices = [];
    private SimContainer? _container;
    private int _files;

    internal SimGroup(SimKernel kernel, int number)
    {
        _kernel = kernel;
        Number = number;
    }

    public int Number { get; }

    /// <summary>False: a device of the group is bound to a driver of the host's.</summary>
    public bool IsViable { get; set; } = true;

    /// <summary>Another process has the group open.</summary>
    public bool IsHeldElsewhere { get; set; }

    /// <summary>What the IOMMU can address: 39 bits, as QEMU's intel-iommu. So no IOVA equals a host address of a 64-bit
    /// process, and code that takes one for the other faults.</summary>
    public IovaRange Aperture { get; set; } = new(new Iova(0), new Iova((1ul << 39) - 1));

    /// <summary>What is taken out of the aperture: the window of message-signalled interrupts.</summary>
    public IReadOnlyList<IovaRange> Reserved { get; set; } = [new(new Iova(0xfee0_0000), new Iova(0xfeef_ffff))];

    public IReadOnlyList<SimPciDevice> Devices => _devices;

    internal SimIommu? Iommu => _container?.Iommu;

    internal void Unplug() => _devices.ForEach(d => d.Unplug());

    internal void Add(SimPciDevice device)
    {
        device.Plug(_kernel, this);
        _devices.Add(device);
    }

    internal long Open()
    {
        if (_files > 0 || IsHeldElsewhere)
        {
            return -(long)Errno.EBUSY;
        }

        _files = 1;
        return _kernel.Install(new SimGroupFile(_kernel, this));
    }

    internal uint Status() =>
        _container is not null ? vfio.VFIO_GROUP_FLAGS_VIABLE | vfio.VFIO_GROUP_FLAGS_CONTAINER_SET
        : IsViable ? vfio.VFIO_GROUP_FLAGS_VIABLE
        : 0;

    internal Errno SetContainer(SimFile? file)
    {
        if (file is null)
        {
            return Errno.EBADF;
        }

        if (_container is not null)
        {
            return Errno.EINVAL;
        }

        if (file is not SimContainer container)
        {
            return (Errno)_kernel.Behaviour.UnknownContainer;
        }

        Errno errno = container.Attach(this);
        _container = errno == Errno.None ? container : null;
        return errno;
    }

    internal Errno UnsetContainer()
    {
        if (_container is null)
        {
            return Errno.EINVAL;
        }

        if (_files > 1)
        {
            return Errno.EBUSY;
        }

        Detach();
        return Errno.None;
    }

    internal long OpenDevice(string name)
    {
        SimPciDevice? device = _devices.Find(d => d.Address.ToString() == name);
        if (device is null)
        {
            return -(long)Errno.ENODEV;
        }

        if (Iommu is null)
        {
            return -(long)Errno.EINVAL;
        }

        _files++;
        return _kernel.Install(new SimDeviceFile(_kernel, this, device));
    }

    /// <summary>The group's file or one of its devices' was closed; devices hold the group open.</summary>
    internal void Release()
    {
        _files--;
        if (_files == 0)
        {
            Detach();
        }
    }

    private void Detach()
    {
        SimContainer? container = _container;
        _container = null;
        container?.Detach(this);
    }
}
