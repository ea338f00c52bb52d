using Vfio.Linux;

namespace Vfio;

/// <summary>Gives devices to vfio-pci and back to the drivers that had them: driver_override, unbind, drivers_probe, and a
/// check that it took. What fails is undone, and the message names every member of the group.</summary>
/// <remarks>Needs the privilege to write to sysfs. Not for two threads on one device at a time. Kernel:
/// Documentation/ABI/testing/sysfs-bus-pci, <c>driver_override</c>.</remarks>
public sealed class PciDriverBinding
{
    /// <summary>Where former drivers are kept unless the caller says otherwise.</summary>
    public const string DefaultStateDirectory = "/run/vfiopin";

    private static readonly TimeSpan PollInterval = TimeSpan.FromMilliseconds(10);

    private readonly Sysfs _sysfs;
    private readonly string _stateDirectory;
    private readonly TimeSpan _timeout;

    /// <summary>Binds on the machine that <paramref name="bus"/> shows.</summary>
    /// <param name="bus">The PCI bus.</param>
    /// <param name="stateDirectory">Where former drivers are kept from bind to unbind.</param>
    /// <param name="timeout">How long one step may take (a driver lets go only when its users do); 10 s by default.</param>
    public PciDriverBinding(PciBus bus, string stateDirectory = DefaultStateDirectory, TimeSpan? timeout = null)
    {
        ArgumentNullException.ThrowIfNull(bus);
        Bus = bus;
        _sysfs = bus.Sysfs;
        _stateDirectory = stateDirectory;
        _timeout = timeout ?? TimeSpan.FromSeconds(10);
    }

    /// <summary>The PCI bus that is changed.</summary>
    public PciBus Bus { get; }

    /// <summary>Gives devices to vfio-pci, all or none.</summary>
    /// <param name="addresses">The devices.</param>
    /// <param name="force">Also take a disk that is mounted, used as swap or below another device.</param>
    /// <param name="cancellation">Ends the waiting; what was done is undone.</param>
    /// <returns>Each device as it is afterwards.</returns>
    /// <exception cref="LinuxException">A device is missing, is in no IOMMU group, is in use, or did not change hands; vfio-pci
    /// is not loaded; sysfs cannot be written.</exception>
    public IReadOnlyList<PciDevice> Bind(
        IReadOnlyList<PciAddress> addresses, bool force = false, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(addresses);
        PciDevice[] devices = [.. addresses.Distinct().Select(Bus.Get)];
        foreach (PciDevice device in devices)
        {
            CheckCanBind(device, force);
        }

        var done = new Stack<(PciDevice Device, FormerDriver Former)>();
        try
        {
            foreach (PciDevice device in devices.Where(d => d.Driver != PciDevice.VfioPci))
            {
                FormerDriver former = FormerOf(device);
                former.Save(_stateDirectory, device.Address);
                done.Push((device, former));
                Write(device, $"{PciDevice.Directory(device.Address)}/driver_override", PciDevice.VfioPci, cancellation);
                Release(device, cancellation);
                Probe(device, cancellation);
                RequireDriver(device, PciDevice.VfioPci, cancellation);
            }
        }
        catch (LinuxException e)
        {
            throw Explain(e, devices, Undo(done));
        }
        catch (OperationCanceledException)
        {
            Undo(done);
            throw;
        }

        return [.. devices.Select(d => Bus.Get(d.Address))];
    }

    /// <summary>Takes devices from vfio-pci and gives them back to the drivers that had them; without a record of one, to the
    /// driver that the kernel chooses.</summary>
    /// <param name="addresses">The devices.</param>
    /// <param name="cancellation">Ends the waiting.</param>
    /// <returns>Each device as it is afterwards.</returns>
    /// <exception cref="LinuxException">A device is missing, is not on vfio-pci, is in use by a process, or did not change
    /// hands. Devices that come before it in the list stay unbound.</exception>
    public IReadOnlyList<PciDevice> Unbind(IReadOnlyList<PciAddress> addresses, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(addresses);
        (PciDevice Device, FormerDriver? Former)[] devices =
            [.. addresses.Distinct().Select(a => (Bus.Get(a), FormerDriver.TryLoad(_stateDirectory, a)))];
        foreach ((PciDevice device, FormerDriver? former) in devices)
        {
            CheckCanUnbind(device, former);
        }

        foreach ((PciDevice device, FormerDriver? former) in devices)
        {
            try
            {
                Restore(device, former, cancellation);
            }
            catch (LinuxException e)
            {
                throw Explain(e, [device], null);
            }

            FormerDriver.Forget(_stateDirectory, device.Address);
        }

        return [.. devices.Select(d => Bus.Get(d.Device.Address))];
    }

    // A bind that was killed half way leaves a device with no driver and our override; what it had before is in the record.
    private FormerDriver FormerOf(PciDevice device)
    {
        string? present = ReadOverride(device.Address);
        return (device.Driver is null && present == PciDevice.VfioPci ? FormerDriver.TryLoad(_stateDirectory, device.Address) : null)
            ?? new FormerDriver(device.Driver, present);
    }

    private void CheckCanBind(PciDevice device, bool force)
    {
        Bus.GetGroup(device);
        if (device.IsBridge)
        {
            throw new LinuxException(
                "bind to vfio-pci",
                Errno.EINVAL,
                $"{device.Address} ({device.ClassName})",
                "vfio-pci takes no bridges; a bridge does not keep its group from being viable",
                $"bind only the devices behind it; the group has {Bus.GetGroup(device).Describe()}");
        }

        if (!_sysfs.Exists($"/sys/bus/pci/drivers/{PciDevice.VfioPci}"))
        {
            throw new LinuxException(
                "bind to vfio-pci",
                Errno.ENODEV,
                $"{device.Address}",
                "the driver vfio-pci is not loaded",
                "modprobe vfio-pci");
        }

        IReadOnlyList<string> users = DeviceUsers.OfDisks(_sysfs, device.Address);
        if (users.Count > 0 && !force)
        {
            throw new LinuxException(
                "bind to vfio-pci",
                Errno.EBUSY,
                $"{device.Address}",
                $"the kernel uses its disk: {string.Join(", ", users)}",
                "umount it (swapoff, or take the stacked device apart) first, or say --force to take the disk away from under it");
        }
    }

    private void CheckCanUnbind(PciDevice device, FormerDriver? former)
    {
        // A device without a driver and with a record is one whose restoring was cut short: it goes on.
        if (!device.IsOnVfio && (former is null || device.Driver is not null))
        {
            throw new LinuxException(
                "unbind from vfio-pci",
                Errno.EINVAL,
                $"{device.Address}",
                device.Driver is null ? "it has no driver" : $"it is not on vfio-pci, the driver {device.Driver} has it",
                "look with: vfiopin device show " + device.Address);
        }

        if (device.IommuGroup is int group)
        {
            IReadOnlyList<string> users = DeviceUsers.OfGroup(_sysfs, group);
            if (users.Count > 0)
            {
                throw new LinuxException(
                    "unbind from vfio-pci",
                    Errno.EBUSY,
                    $"{device.Address}, IOMMU group {group}",
                    $"its group is held by {string.Join(", ", users)}, and the kernel would wait for it without end",
                    "end that process first, or take its pools down with: vfiopin pool destroy");
            }
        }
    }

    private void Restore(PciDevice device, FormerDriver? former, CancellationToken cancellation)
    {
        Write(device, $"{PciDevice.Directory(device.Address)}/driver_override", former?.Override ?? string.Empty, cancellation);
        Release(device, cancellation);
        if (former is { Driver: null })
        {
            return;
        }

        Probe(device, cancellation);
        if (former?.Driver is string driver)
        {
            RequireDriver(device, driver, cancellation);
        }
    }

    private void Release(PciDevice device, CancellationToken cancellation)
    {
        string link = $"{PciDevice.Directory(device.Address)}/driver";
        if (_sysfs.TryReadLinkName(link) is string driver)
        {
            Write(device, $"/sys/bus/pci/drivers/{driver}/unbind", device.Address.ToString(), cancellation);
            WaitFor(device, () => _sysfs.TryReadLinkName(link) is null, $"{driver} to let go", cancellation);
        }
    }

    private void Probe(PciDevice device, CancellationToken cancellation) =>
        Write(device, "/sys/bus/pci/drivers_probe", device.Address.ToString(), cancellation);

    private void RequireDriver(PciDevice device, string driver, CancellationToken cancellation)
    {
        string link = $"{PciDevice.Directory(device.Address)}/driver";
        if (!_sysfs.Exists($"/sys/bus/pci/drivers/{driver}"))
        {
            throw new LinuxException(
                "drivers_probe", Errno.ENODEV, $"{device.Address}", $"the driver {driver} is not loaded", $"modprobe {driver}");
        }

        WaitFor(device, () => _sysfs.TryReadLinkName(link) == driver, $"{driver} to take it", cancellation);
    }

    // An unbind of a driver whose device is in use blocks inside write(2), and no signal ends it: it gets a thread of its own,
    // so that the command can say so and end.
    private void Write(PciDevice device, string path, string text, CancellationToken cancellation)
    {
        Task write = Task.Factory.StartNew(
            () => _sysfs.Write(path, text), CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default);
        try
        {
            if (!write.Wait((int)_timeout.TotalMilliseconds, cancellation))
            {
                throw TimedOut(device, $"the write of \"{text}\" to {_sysfs.Resolve(path)}");
            }
        }
        catch (AggregateException e) when (e.InnerException is LinuxException failure)
        {
            (string? cause, string? cure) = failure.Errno switch
            {
                Errno.EACCES or Errno.EPERM => ("sysfs is written only by root", "run it as root"),
                Errno.EROFS => ("/sys can only be read here, as in a container without privileges", "run it on the host, or mount /sys so that it can be written"),
                _ => (CauseOf(failure), failure.Cure),
            };
            throw new LinuxException(failure.Call, failure.Errno, failure.Detail, cause, cure);
        }
    }

    private static string? CauseOf(LinuxException failure) => failure.Errno switch
    {
        Errno.ENOENT => "the kernel has no such attribute (a kernel before 3.16 has no driver_override)",
        Errno.ENODEV => "the driver does not have the device, or refused it",
        Errno.EINVAL => "the driver refused the device; the kernel log (dmesg) says why",
        _ => failure.Cause,
    };

    private void WaitFor(PciDevice device, Func<bool> condition, string what, CancellationToken cancellation)
    {
        long start = TimeProvider.System.GetTimestamp();
        while (!condition())
        {
            if (TimeProvider.System.GetElapsedTime(start) > _timeout)
            {
                throw TimedOut(device, what);
            }

            cancellation.WaitHandle.WaitOne(PollInterval);
            cancellation.ThrowIfCancellationRequested();
        }
    }

    private LinuxException TimedOut(PciDevice device, string what) => new(
        "bind",
        Errno.ETIMEDOUT,
        $"{device.Address}: waited {_timeout.TotalSeconds:0.#} s for {what}",
        "a driver lets go of a device only when nobody uses it, and takes it only when its probe succeeds",
        "end what uses the device, and look into the kernel log: dmesg | tail");

    private string? ReadOverride(PciAddress address)
    {
        string? text = _sysfs.TryRead($"{PciDevice.Directory(address)}/driver_override");
        // The kernel prints a null pointer so.
        return text is null or "" or "(null)" ? null : text;
    }

    // Returns what could not be put back, in words, or null.
    private string? Undo(Stack<(PciDevice Device, FormerDriver Former)> done)
    {
        var left = new List<string>();
        while (done.TryPop(out (PciDevice Device, FormerDriver Former) step))
        {
            try
            {
                if (_sysfs.TryReadLinkName($"{PciDevice.Directory(step.Device.Address)}/driver") != step.Former.Driver
                    || step.Former.Driver is null)
                {
                    Restore(step.Device, step.Former, CancellationToken.None);
                }
                else
                {
                    Write(
                        step.Device,
                        $"{PciDevice.Directory(step.Device.Address)}/driver_override",
                        step.Former.Override ?? string.Empty,
                        CancellationToken.None);
                }

                FormerDriver.Forget(_stateDirectory, step.Device.Address);
            }
            catch (LinuxException e)
            {
                left.Add($"{step.Device.Address} is not back on {step.Former.Driver ?? "no driver"} ({e.Message})");
            }
        }

        return left.Count == 0 ? null : string.Join("; ", left);
    }

    private LinuxException Explain(LinuxException failure, IReadOnlyList<PciDevice> devices, string? left)
    {
        IEnumerable<string> groups = devices.Select(d => d.IommuGroup).OfType<int>().Distinct()
            .Select(g => $"IOMMU group {g} has {Bus.GetGroup(g).Describe()}");
        string detail = $"{failure.Detail} ({string.Join("; ", groups)})";
        string outcome = left is null ? string.Empty : $"; not undone: {left}";
        return new LinuxException(failure.Call, failure.Errno, detail, $"{failure.Cause ?? "not known"}{outcome}", failure.Cure);
    }
}
