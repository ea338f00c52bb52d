using Vfio.Linux;

namespace Vfio;

/// <summary>A VFIO container: one I/O address space, shared by the groups attached to it. Type1 version 2 only.</summary>
/// <remarks>Not thread-safe, except <see cref="Iommu"/>. Disposing closes devices, groups and the container, and the kernel then
/// drops every mapping that is left; reset devices that may still write before that.
/// Source: <c>Documentation/driver-api/vfio.rst</c>, "VFIO Usage Example".</remarks>
public sealed unsafe class VfioContainer : IDisposable
{
    private readonly IKernel _kernel;
    private readonly Sysfs _sysfs;
    private readonly FileDescriptor _descriptor;
    private readonly Dictionary<int, VfioGroup> _groups = [];
    private Type1Iommu? _iommu;

    private VfioContainer(IKernel kernel, Sysfs sysfs, FileDescriptor descriptor)
    {
        _kernel = kernel;
        _sysfs = sysfs;
        _descriptor = descriptor;
    }

    /// <summary>The container's IOMMU.</summary>
    /// <exception cref="InvalidOperationException">No device was opened yet: the kernel knows no IOMMU before the first group.</exception>
    public Type1Iommu Iommu => _iommu
        ?? throw new InvalidOperationException("the container has no IOMMU before its first device is opened");

    /// <summary>The container's descriptor, to hand to another process.</summary>
    public FileDescriptor Descriptor => _descriptor;

    /// <summary>The groups that are attached.</summary>
    public IReadOnlyCollection<VfioGroup> Groups => _groups.Values;

    /// <summary>Opens a new container.</summary>
    /// <param name="kernel">The kernel; the running one by default.</param>
    /// <param name="sysfs">Where <c>/sys</c> is; the real one by default.</param>
    /// <returns>The container, with no group yet.</returns>
    /// <exception cref="LinuxException">There is no VFIO, no permission, or no type1 version 2.</exception>
    public static VfioContainer Open(IKernel? kernel = null, Sysfs? sysfs = null)
    {
        kernel ??= LinuxKernel.Instance;
        int result = kernel.Open("/dev/vfio/vfio", Fcntl.O_RDWR);
        if (result < 0)
        {
            throw VfioFailures.Exception("open(/dev/vfio/vfio)", (Errno)(-result), "VFIO container");
        }

        var descriptor = new FileDescriptor(kernel, result);
        try
        {
            int version = Check(kernel.Ioctl(result, vfio.VFIO_GET_API_VERSION, null), "VFIO_GET_API_VERSION", "/dev/vfio/vfio");
            if (version != vfio.VFIO_API_VERSION)
            {
                throw new LinuxException("VFIO_GET_API_VERSION", Errno.EINVAL, $"the kernel speaks version {version}, not 0",
                    "this kernel's VFIO is not the one that vfiopin knows", "use a kernel whose VFIO API version is 0");
            }

            int offered = Check(
                kernel.Ioctl(result, vfio.VFIO_CHECK_EXTENSION, (void*)vfio.VFIO_TYPE1v2_IOMMU), "VFIO_CHECK_EXTENSION", "type1 version 2");
            return offered == 1
                ? new VfioContainer(kernel, sysfs ?? new Sysfs(), descriptor)
                : throw VfioFailures.Exception("VFIO_CHECK_EXTENSION", Errno.EINVAL,
                    "type1 version 2 (version 1 loses unmaps without a word, so it is never used)");
        }
        catch
        {
            descriptor.Dispose();
            throw;
        }
    }

    /// <summary>Asks whether the kernel offers an extension.</summary>
    /// <param name="extension">The extension.</param>
    /// <returns>True when it does.</returns>
    /// <exception cref="LinuxException">VFIO_CHECK_EXTENSION failed.</exception>
    public bool Supports(VfioExtension extension) => Check(
        _kernel.Ioctl(_descriptor.Number, vfio.VFIO_CHECK_EXTENSION, (void*)(nint)extension), "VFIO_CHECK_EXTENSION", extension.ToString()) > 0;

    /// <summary>Attaches the group of a device without opening the device: enough to ask the IOMMU for its limits.</summary>
    /// <param name="address">The device, bound to vfio-pci.</param>
    /// <exception cref="LinuxException">As for <see cref="OpenDevice"/>.</exception>
    public void AttachGroup(PciAddress address)
    {
        int number = FindGroup(address);
        if (!_groups.ContainsKey(number))
        {
            Attach(number);
        }
    }

    /// <summary>Opens a device, attaching its group to the container first where it is not attached yet.</summary>
    /// <param name="address">The device, bound to vfio-pci.</param>
    /// <returns>The device, owned by its group and closed with the container at the latest.</returns>
    /// <exception cref="LinuxException">There is no such device, it has no IOMMU, is not on vfio-pci, its group is not viable or held by
    /// another process, or the kernel refused another step. The container is then as it was.</exception>
    public VfioDevice OpenDevice(PciAddress address)
    {
        int number = FindGroup(address);
        bool attached = !_groups.TryGetValue(number, out VfioGroup? group);
        group ??= Attach(number);
        try
        {
            return group.OpenDevice(address);
        }
        catch
        {
            if (attached)
            {
                Detach(number);
            }

            throw;
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (VfioGroup group in _groups.Values)
        {
            group.Dispose();
        }

        _groups.Clear();
        _descriptor.Dispose();
    }

    /// <summary>The result, or the exception for it.</summary>
    internal static int Check(int result, string call, string detail) =>
        result < 0 ? throw VfioFailures.Exception(call, (Errno)(-result), detail) : result;

    // What sysfs tells before the first call, so that the message names what is really wrong.
    private int FindGroup(PciAddress address)
    {
        var bus = new PciBus(_sysfs);
        PciDevice device = bus.Get(address);
        IommuGroup group = bus.GetGroup(device);
        return device.IsOnVfio
            ? group.Number
            : throw new LinuxException("open device", Errno.EBUSY, $"{address} of IOMMU group {group.Number}, which has {group.Describe()}",
                device.Driver is null ? "the device is bound to no driver, so not to vfio-pci" : $"the device is bound to {device.Driver}, not to vfio-pci",
                $"vfiopin device bind {address}");
    }

    private VfioGroup Attach(int number)
    {
        VfioGroup group = VfioGroup.Open(_kernel, _sysfs, number);
        try
        {
            int container = _descriptor.Number;
            // SAFETY: the kernel reads one int, a local.
            Check(_kernel.Ioctl(group.Descriptor.Number, vfio.VFIO_GROUP_SET_CONTAINER, &container),
                "VFIO_GROUP_SET_CONTAINER", group.Describe());
            if (_iommu is null)
            {
                Check(_kernel.Ioctl(container, vfio.VFIO_SET_IOMMU, (void*)vfio.VFIO_TYPE1v2_IOMMU), "VFIO_SET_IOMMU", group.Describe());
                _iommu = new Type1Iommu(_kernel, _descriptor);
            }
            else
            {
                // The valid ranges are what all groups have in common, so each group may take some away.
                _iommu.Refresh();
            }

            _groups.Add(number, group);
            return group;
        }
        catch
        {
            // Closing the group takes it out of the container; with no group left the kernel forgets the IOMMU too.
            group.Dispose();
            if (_groups.Count == 0)
            {
                _iommu = null;
            }

            throw;
        }
    }

    private void Detach(int number)
    {
        _groups[number].Dispose();
        _groups.Remove(number);
        if (_groups.Count == 0)
        {
            _iommu = null;
        }
        else
        {
            _iommu?.Refresh();
        }
    }
}
