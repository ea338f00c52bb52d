using Vfio.Linux;

namespace Vfio.Service;

/// <summary>One I/O address space: a container, its pinner, the devices in it, and who is pinned there.</summary>
/// <remarks>Opening and closing devices takes long, since the kernel resets them; a lock of its own covers that, and what others look at
/// meanwhile are arrays that are replaced. What <see cref="AddressSpaces"/> decides by is covered by its lock.</remarks>
internal sealed class AddressSpace(IKernel kernel, PciBus bus)
{
    // Held while the kernel opens or closes.
    private readonly Lock _opening = new();
    private readonly Dictionary<PciAddress, int> _claims = [];
    private readonly TaskCompletionSource _closed = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private VfioContainer? _container;
    private Pinner? _pinner;
    private OpenDevice[] _devices = [];
    private bool _isClosed;

    // ORDER: acquire; pairs with the releases in Open.
    public IReadOnlyCollection<OpenDevice> Devices => Volatile.Read(ref _devices);

    public Pinner Pinner => _pinner ?? throw NotOpen();

    public FileDescriptor ContainerDescriptor => (_container ?? throw NotOpen()).Descriptor;

    public IReadOnlyCollection<VfioGroup> Groups
    {
        get
        {
            lock (_opening)
            {
                return [.. (_container ?? throw NotOpen()).Groups];
            }
        }
    }

    /// <summary>Who keeps it open: pools, and those who plan one. The lock of <see cref="AddressSpaces"/> covers it.</summary>
    public List<string> Users { get; } = [];

    /// <summary>Whether nobody comes in any more. The lock of <see cref="AddressSpaces"/> covers it.</summary>
    public bool IsClosing { get; set; }

    /// <summary>Ends when the devices are closed and may be opened again.</summary>
    public Task Closed => _closed.Task;

    public OpenDevice? Find(PciAddress address) => Devices.FirstOrDefault(d => d.Address == address);

    /// <summary>Whether the device is here or on its way. The lock of <see cref="AddressSpaces"/> is held.</summary>
    public bool Has(PciAddress address) => _claims.ContainsKey(address) || Find(address) is not null;

    /// <summary>Says that a device is on its way into here. The lock of <see cref="AddressSpaces"/> is held.</summary>
    public void Claim(PciAddress address) => _claims[address] = _claims.GetValueOrDefault(address) + 1;

    /// <summary>Says that it has come, or will not. The lock of <see cref="AddressSpaces"/> is held.</summary>
    public void Unclaim(PciAddress address)
    {
        if (--_claims[address] == 0)
        {
            _claims.Remove(address);
        }
    }

    /// <summary>Opens the container with devices in it, all of them or nothing; where it is open, only the devices that are not here yet, and
    /// those only if told to.</summary>
    public void Open(IReadOnlyList<PciAddress> devices, bool add)
    {
        lock (_opening)
        {
            ObjectDisposedException.ThrowIf(_isClosed, this);
            if (_container is null)
            {
                OpenContainer(devices);
            }
            else if (add)
            {
                foreach (PciAddress address in devices.Where(d => Find(d) is null))
                {
                    var device = new OpenDevice(_container.OpenDevice(address));
                    Volatile.Write(ref _devices, Sorted([.. _devices, device]));
                }
            }
        }
    }

    /// <summary>Closes devices, groups and the container. Its devices are told as its own until that is done.</summary>
    public void Close()
    {
        lock (_opening)
        {
            _isClosed = true;
            _container?.Dispose();
        }
    }

    public void TellClosed() => _closed.TrySetResult();

    private void OpenContainer(IReadOnlyList<PciAddress> devices)
    {
        // Asked first, so that a machine without an IOMMU is told so and not that a file is missing.
        foreach (PciAddress address in devices)
        {
            bus.GetGroup(bus.Get(address));
        }

        VfioContainer container = VfioContainer.Open(kernel, bus.Sysfs);
        try
        {
            OpenDevice[] opened = [.. devices.Distinct().Select(a => new OpenDevice(container.OpenDevice(a)))];
            _pinner = new Pinner(container.Iommu, bus.Sysfs);
            _container = container;
            Volatile.Write(ref _devices, Sorted(opened));
        }
        catch
        {
            container.Dispose();
            throw;
        }
    }

    private static OpenDevice[] Sorted(OpenDevice[] devices) => [.. devices.OrderBy(d => d.Address)];

    private static InvalidOperationException NotOpen() => new("the address space is not open");
}
