using System.Text;
using Vfio.Linux;

namespace Vfio;

/// <summary>An IOMMU group: the devices that the IOMMU cannot tell apart, so that they are handed out together or not at all.</summary>
/// <remarks>Not thread-safe. Made by <see cref="VfioContainer.OpenDevice"/>. Source: <c>drivers/vfio/group.c</c>.</remarks>
public sealed unsafe class VfioGroup : IDisposable
{
    private readonly IKernel _kernel;
    private readonly Sysfs _sysfs;
    private readonly List<VfioDevice> _devices = [];

    private VfioGroup(IKernel kernel, Sysfs sysfs, FileDescriptor descriptor, int number)
    {
        _kernel = kernel;
        _sysfs = sysfs;
        Descriptor = descriptor;
        Number = number;
    }

    /// <summary>The number, as in <c>/dev/vfio/NUMBER</c>.</summary>
    public int Number { get; }

    /// <summary>The group's descriptor, to hand to another process.</summary>
    public FileDescriptor Descriptor { get; }

    /// <inheritdoc/>
    public void Dispose()
    {
        // The kernel keeps a group in its container while a device of it is open.
        foreach (VfioDevice device in _devices)
        {
            device.Dispose();
        }

        _devices.Clear();
        Descriptor.Dispose();
    }

    /// <summary>Opens a group and checks that all its devices are out of the host's hands.</summary>
    internal static VfioGroup Open(IKernel kernel, Sysfs sysfs, int number)
    {
        int result = kernel.Open($"/dev/vfio/{number}", Fcntl.O_RDWR);
        if (result < 0)
        {
            IReadOnlyList<string> users = -result == (int)Errno.EBUSY ? DeviceUsers.OfGroup(sysfs, number) : [];
            throw VfioFailures.Exception("open(/dev/vfio/GROUP)", (Errno)(-result),
                users.Count == 0 ? $"/dev/vfio/{number}" : $"/dev/vfio/{number}, held by {string.Join(", ", users)}");
        }

        var group = new VfioGroup(kernel, sysfs, new FileDescriptor(kernel, result), number);
        try
        {
            group.CheckViable();
            return group;
        }
        catch
        {
            group.Dispose();
            throw;
        }
    }

    /// <summary>Opens a device of the group, which must be in a container with an IOMMU.</summary>
    internal VfioDevice OpenDevice(PciAddress address)
    {
        int result;
        // SAFETY: the kernel reads a string that ends in a zero byte; the array is pinned for the call.
        fixed (byte* name = Encoding.ASCII.GetBytes(address + "\0"))
        {
            result = VfioContainer.Check(
                _kernel.Ioctl(Descriptor.Number, vfio.VFIO_GROUP_GET_DEVICE_FD, name), "VFIO_GROUP_GET_DEVICE_FD", $"{address} of {Describe()}");
        }

        VfioDevice device = VfioDevice.Create(_kernel, new FileDescriptor(_kernel, result), address);
        _devices.Add(device);
        return device;
    }

    /// <summary>Names the group in a message.</summary>
    internal string Describe() => $"IOMMU group {Number}";

    private void CheckViable()
    {
        var status = new vfio_group_status { argsz = (uint)sizeof(vfio_group_status) };
        // SAFETY: a local of the size that argsz says.
        VfioContainer.Check(_kernel.Ioctl(Descriptor.Number, vfio.VFIO_GROUP_GET_STATUS, &status), "VFIO_GROUP_GET_STATUS", Describe());
        if ((status.flags & vfio.VFIO_GROUP_FLAGS_VIABLE) != 0)
        {
            return;
        }

        throw new PciBus(_sysfs).GetGroup(Number).NotViable();
    }
}
