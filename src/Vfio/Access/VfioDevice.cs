using Vfio.Linux;

namespace Vfio;

/// <summary>A PCI device held through vfio-pci: regions, configuration space, interrupts, reset.</summary>
/// <remarks>Not thread-safe; a region's registers may be used from any thread. Disposing closes the device, upon which the kernel
/// stops its bus mastering and resets it where it can. Source: <c>drivers/vfio/pci/vfio_pci_core.c</c>.</remarks>
public sealed unsafe class VfioDevice : IDisposable
{
    private const int ConfigurationRegion = (int)vfio.VFIO_PCI_CONFIG_REGION_INDEX;

    private readonly IKernel _kernel;
    private readonly vfio_device_info _info;
    private readonly VfioRegion?[] _regions;
    private readonly List<VfioInterrupts> _interrupts = [];

    private VfioDevice(IKernel kernel, FileDescriptor descriptor, PciAddress address, vfio_device_info info)
    {
        _kernel = kernel;
        _info = info;
        Descriptor = descriptor;
        Address = address;
        _regions = new VfioRegion?[Math.Min(info.num_regions, vfio.VFIO_PCI_CONFIG_REGION_INDEX + 1)];
    }

    /// <summary>The device's PCI address.</summary>
    public PciAddress Address { get; }

    /// <summary>The device's descriptor, to hand to another process.</summary>
    public FileDescriptor Descriptor { get; }

    /// <summary>Whether <see cref="Reset"/> works.</summary>
    public bool CanReset => (_info.flags & vfio.VFIO_DEVICE_FLAGS_RESET) != 0;

    /// <summary>PCI configuration space.</summary>
    /// <exception cref="LinuxException">VFIO_DEVICE_GET_REGION_INFO failed.</exception>
    public VfioRegion Configuration => Region(ConfigurationRegion);

    /// <summary>Base address register <paramref name="index"/> as a region.</summary>
    /// <param name="index">0 to 5.</param>
    /// <returns>The region, mapped where the device allows; of length 0 where the device has none.</returns>
    /// <exception cref="LinuxException">The kernel refused to describe or to map it.</exception>
    public VfioRegion Bar(int index)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(index);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(index, (int)vfio.VFIO_PCI_BAR5_REGION_INDEX);
        return Region(index);
    }

    /// <summary>Lets the device answer memory accesses and read and write memory itself.</summary>
    /// <exception cref="LinuxException">Configuration space could not be read or written.</exception>
    public void EnableBusMaster()
    {
        ushort command = Configuration.Read16(pci_regs.PCI_COMMAND);
        Configuration.Write16(pci_regs.PCI_COMMAND, (ushort)(command | pci_regs.PCI_COMMAND_MASTER | pci_regs.PCI_COMMAND_MEMORY));
    }

    /// <summary>Stops the device from reading and writing memory: its transactions end at its own port.</summary>
    /// <exception cref="LinuxException">Configuration space could not be read or written.</exception>
    public void DisableBusMaster()
    {
        ushort command = Configuration.Read16(pci_regs.PCI_COMMAND);
        Configuration.Write16(pci_regs.PCI_COMMAND, (ushort)(command & ~pci_regs.PCI_COMMAND_MASTER));
    }

    /// <summary>Resets the device alone (function-level reset or the like).</summary>
    /// <exception cref="LinuxException">VFIO_DEVICE_RESET failed.</exception>
    public void Reset() =>
        VfioContainer.Check(_kernel.Ioctl(Descriptor.Number, vfio.VFIO_DEVICE_RESET, null), "VFIO_DEVICE_RESET", Address.ToString());

    /// <summary>How many vectors of a kind the device has.</summary>
    /// <param name="kind">The kind of interrupt.</param>
    /// <returns>The number; 0 where it has none of that kind.</returns>
    /// <exception cref="LinuxException">VFIO_DEVICE_GET_IRQ_INFO failed.</exception>
    public int CountInterrupts(VfioInterruptKind kind)
    {
        if ((uint)kind >= _info.num_irqs)
        {
            return 0;
        }

        var info = new vfio_irq_info { argsz = (uint)sizeof(vfio_irq_info), index = (uint)kind };
        // SAFETY: a local of the size that argsz says.
        VfioContainer.Check(_kernel.Ioctl(Descriptor.Number, vfio.VFIO_DEVICE_GET_IRQ_INFO, &info),
            "VFIO_DEVICE_GET_IRQ_INFO", $"{Address} {kind}");
        return (int)Math.Min(info.count, int.MaxValue);
    }

    /// <summary>Switches interrupts of a kind on, an eventfd for each vector.</summary>
    /// <param name="kind">The kind of interrupt; only one can be on at a time.</param>
    /// <param name="count">Vectors, from 1 to <see cref="CountInterrupts"/>.</param>
    /// <returns>The vectors; disposing them switches the interrupts off.</returns>
    /// <exception cref="LinuxException">VFIO_DEVICE_SET_IRQS failed.</exception>
    public VfioInterrupts EnableInterrupts(VfioInterruptKind kind, int count)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(count, 1);
        VfioInterrupts interrupts = VfioInterrupts.Enable(_kernel, this, kind, count);
        // A daemon opens and ends them for each command.
        _interrupts.RemoveAll(i => i.IsDisposed);
        _interrupts.Add(interrupts);
        return interrupts;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (VfioInterrupts interrupts in _interrupts)
        {
            // Closing the device switches off what this cannot.
            _ = interrupts.TrySwitchOff();
        }

        _interrupts.Clear();
        foreach (VfioRegion? region in _regions)
        {
            region?.Close();
        }

        Descriptor.Dispose();
    }

    /// <summary>Takes ownership of a device's descriptor and asks what it is.</summary>
    internal static VfioDevice Create(IKernel kernel, FileDescriptor descriptor, PciAddress address)
    {
        var info = new vfio_device_info { argsz = (uint)sizeof(vfio_device_info) };
        // SAFETY: a local of the size that argsz says.
        int result = kernel.Ioctl(descriptor.Number, vfio.VFIO_DEVICE_GET_INFO, &info);
        if (result < 0)
        {
            descriptor.Dispose();
            throw VfioFailures.Exception("VFIO_DEVICE_GET_INFO", (Errno)(-result), address.ToString());
        }

        return new VfioDevice(kernel, descriptor, address, info);
    }

    private VfioRegion Region(int index)
    {
        ObjectDisposedException.ThrowIf(Descriptor.IsClosed, this);
        return index < _regions.Length
            ? _regions[index] ??= VfioRegion.Open(_kernel, this, index)
            : throw VfioFailures.Exception("VFIO_DEVICE_GET_REGION_INFO", Errno.EINVAL, $"{Address} region {index}");
    }
}
