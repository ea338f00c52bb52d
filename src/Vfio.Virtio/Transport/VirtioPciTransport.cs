using System.Diagnostics;
using Vfio.Linux;

namespace Vfio.Virtio;

/// <summary>A virtio device over PCI, in its modern form (virtio 1.3, 4.1 "Virtio Over PCI Bus"): status, features,
/// configuration, queues and notifications, over the regions of a device held through VFIO.</summary>
/// <remarks>Not thread-safe, except <see cref="Notify"/>. The device's owner disposes of the <see cref="VfioDevice"/>; before that, and
/// before any memory that the device knows is unmapped, comes <see cref="Reset"/>.</remarks>
public sealed class VirtioPciTransport
{
    private static readonly TimeSpan ResetTimeout = TimeSpan.FromSeconds(2);

    private readonly VfioDevice _device;
    private readonly VirtioPciCapability _common;
    private readonly VirtioPciCapability _notify;
    private readonly VirtioPciCapability? _configuration;
    private readonly Dictionary<int, ulong> _doorbells = [];

    private VirtioPciTransport(
        VfioDevice device, VirtioPciCapability common, VirtioPciCapability notify, VirtioPciCapability? configuration)
    {
        _device = device;
        _common = common;
        _notify = notify;
        _configuration = configuration;
    }

    /// <summary>The device's PCI address.</summary>
    public PciAddress Address => _device.Address;

    /// <summary>What was negotiated; the lower bits mean what the device type says.</summary>
    public VirtioFeatures Features { get; private set; }

    /// <summary>Queues that the device has at most.</summary>
    public int QueueCount => Read16(virtio_pci.VIRTIO_PCI_COMMON_NUMQ);

    /// <summary>Whether the device gave up and works again only after a reset (virtio 1.3, 2.1 "Device Status Field").</summary>
    public bool NeedsReset => (Status & virtio_config.VIRTIO_CONFIG_S_NEEDS_RESET) != 0;

    private byte Status
    {
        get => _common.Region.Read8(_common.Offset + virtio_pci.VIRTIO_PCI_COMMON_STATUS);
        set => _common.Region.Write8(_common.Offset + virtio_pci.VIRTIO_PCI_COMMON_STATUS, value);
    }

    /// <summary>Finds the device's structures and resets it.</summary>
    /// <param name="device">The device. It becomes bus master.</param>
    /// <returns>The transport, with the device reset and acknowledged.</returns>
    /// <exception cref="VirtioException">It is no modern virtio device, or does not come back from a reset.</exception>
    /// <exception cref="LinuxException">A register could not be read or written.</exception>
    public static VirtioPciTransport Open(VfioDevice device)
    {
        ArgumentNullException.ThrowIfNull(device);
        IReadOnlyList<VirtioPciCapability> all = VirtioPciCapability.ReadAll(device);
        VirtioPciCapability? common = Find(virtio_pci.VIRTIO_PCI_CAP_COMMON_CFG, CommonBytes);
        VirtioPciCapability? notify = Find(virtio_pci.VIRTIO_PCI_CAP_NOTIFY_CFG, 2);
        if (common is null || notify is null)
        {
            throw new VirtioException(
                device.Address,
                $"the configuration space names no usable {(common is null ? "common" : "notify")} structure",
                "this is no virtio device, or a legacy one",
                "in QEMU: -device virtio-blk-pci,disable-legacy=on,iommu_platform=on");
        }

        var transport = new VirtioPciTransport(device, common, notify, Find(virtio_pci.VIRTIO_PCI_CAP_DEVICE_CFG, 4));
        transport.EnableMemory();
        transport.Reset();
        return transport;

        // virtio 1.3, 4.1.4.1: the first of several of a type that the driver can use.
        VirtioPciCapability? Find(byte type, uint length) => all.FirstOrDefault(c => c.Type == type && c.Length >= length);
    }

    /// <summary>Agrees on features and leaves the device ready for its queues.</summary>
    /// <param name="wanted">Features that are taken where the device has them. VERSION_1 and ACCESS_PLATFORM are always required.</param>
    /// <returns>What was agreed.</returns>
    /// <exception cref="VirtioException">The device lacks a required feature, or does not accept the choice.</exception>
    // virtio 1.3, 3.1.1 "Driver Requirements: Device Initialization".
    public VirtioFeatures Negotiate(VirtioFeatures wanted)
    {
        Status |= virtio_config.VIRTIO_CONFIG_S_ACKNOWLEDGE;
        Status |= virtio_config.VIRTIO_CONFIG_S_DRIVER;
        VirtioFeatures offered = ReadFeatures();
        if (!offered.HasFlag(VirtioFeatures.Version1))
        {
            throw Fail(
                "it does not offer VIRTIO_F_VERSION_1", "it is a legacy device", "in QEMU: disable-legacy=on on the -device option");
        }

        if (!offered.HasFlag(VirtioFeatures.AccessPlatform))
        {
            throw Fail(
                "it does not offer VIRTIO_F_ACCESS_PLATFORM",
                "it would reach memory by physical addresses, past the IOMMU",
                "in QEMU: iommu_platform=on,disable-legacy=on on the -device option; with libvirt: <driver iommu='on'/>");
        }

        VirtioFeatures agreed = offered & (wanted | VirtioFeatures.Version1 | VirtioFeatures.AccessPlatform);
        WriteFeatures(agreed);
        Status |= virtio_config.VIRTIO_CONFIG_S_FEATURES_OK;
        if ((Status & virtio_config.VIRTIO_CONFIG_S_FEATURES_OK) == 0)
        {
            throw Fail($"it does not accept the features 0x{(ulong)agreed:x} of the 0x{(ulong)offered:x} that it offers",
                "it wants a feature that this driver does not have");
        }

        Features = agreed;
        return agreed;
    }

    /// <summary>The longest that a queue can be.</summary>
    /// <param name="queue">The queue, from 0.</param>
    /// <returns>Entries; 0 where the device has no such queue.</returns>
    public int MaxQueueSize(int queue)
    {
        Write16(virtio_pci.VIRTIO_PCI_COMMON_Q_SELECT, (ushort)queue);
        return Read16(virtio_pci.VIRTIO_PCI_COMMON_Q_SIZE);
    }

    /// <summary>Tells the device where a queue is and switches it on.</summary>
    /// <param name="queue">The queue, from 0.</param>
    /// <param name="ring">The driver's side of it.</param>
    /// <param name="vector">The MSI-X vector that it interrupts with, or null for none.</param>
    /// <exception cref="VirtioException">The device has no such queue, or not so long, or no such vector.</exception>
    // virtio 1.3, 4.1.5.1.3 "Virtqueue Configuration".
    public void EnableQueue(int queue, DriverQueue ring, int? vector)
    {
        ArgumentNullException.ThrowIfNull(ring);
        int longest = MaxQueueSize(queue);
        if (ring.Size > longest)
        {
            throw Fail(longest == 0 ? $"it has no queue {queue}" : $"queue {queue} has at most {longest} entries, not {ring.Size}");
        }

        Write16(virtio_pci.VIRTIO_PCI_COMMON_Q_SIZE, (ushort)ring.Size);
        SetVector(virtio_pci.VIRTIO_PCI_COMMON_Q_MSIX, vector, $"queue {queue}");
        Write64(virtio_pci.VIRTIO_PCI_COMMON_Q_DESCLO, ring.DescriptorArea);
        Write64(virtio_pci.VIRTIO_PCI_COMMON_Q_AVAILLO, ring.DriverArea);
        Write64(virtio_pci.VIRTIO_PCI_COMMON_Q_USEDLO, ring.DeviceArea);

        // virtio 1.3, 4.1.4.4 "Notification structure layout".
        ulong doorbell = (ulong)Read16(virtio_pci.VIRTIO_PCI_COMMON_Q_NOFF) * _notify.NotifyMultiplier;
        if (doorbell + sizeof(ushort) > _notify.Length || doorbell % sizeof(ushort) != 0)
        {
            throw Fail($"the doorbell of queue {queue} is at 0x{doorbell:x}, outside the {_notify.Length} bytes of the notify structure",
                "the device does not keep to the specification");
        }

        _doorbells[queue] = _notify.Offset + doorbell;
        Write16(virtio_pci.VIRTIO_PCI_COMMON_Q_ENABLE, 1);
    }

    /// <summary>Chooses the vector for changes of the device's configuration and status.</summary>
    /// <param name="vector">The MSI-X vector, or null for none.</param>
    /// <exception cref="VirtioException">The device has no such vector.</exception>
    public void SetConfigurationVector(int? vector) =>
        SetVector(virtio_pci.VIRTIO_PCI_COMMON_MSIX, vector, "configuration changes");

    /// <summary>Lets the device work. From now on it reads and writes memory.</summary>
    public void Start()
    {
        _device.EnableBusMaster();
        Status |= virtio_config.VIRTIO_CONFIG_S_DRIVER_OK;
    }

    /// <summary>Rings a queue's doorbell. Any thread; the caller published before.</summary>
    /// <param name="queue">An enabled queue.</param>
    // virtio 1.3, 4.1.5.2 "Available Buffer Notifications". The register write releases what was published.
    public void Notify(int queue) => _notify.Region.Write16(_doorbells[queue], (ushort)queue);

    /// <summary>Stops the device: after this it touches no memory and has forgotten its queues and features.</summary>
    /// <exception cref="VirtioException">It does not come back; memory that it knows must not be unmapped while the device is open.</exception>
    // virtio 1.3, 4.1.4.3.2: after writing 0, wait for a read of 0.
    public void Reset()
    {
        Status = 0;
        long start = Stopwatch.GetTimestamp();
        while (Status != 0)
        {
            if (Stopwatch.GetElapsedTime(start) > ResetTimeout)
            {
                throw new VirtioException(Address, $"the device does not come back from a reset within {ResetTimeout.TotalSeconds:0} s",
                    "the device hangs", "reset it through the bus: unbind it and bind it again");
            }

            _ = Thread.Yield();
        }

        _doorbells.Clear();
        Features = VirtioFeatures.None;
    }

    /// <summary>Reads the device's own configuration, all of it from one moment.</summary>
    /// <param name="bytes">Filled from the structure's start; a multiple of 4.</param>
    /// <returns>How many bytes the device has, at most as many as asked for; a multiple of 4.</returns>
    /// <exception cref="VirtioException">It changes faster than it can be read.</exception>
    // virtio 1.3, 2.5.1 "Driver Requirements: Device Configuration Space" and 4.1.4.3 (config_generation).
    public int ReadConfiguration(Span<byte> bytes)
    {
        if (_configuration is null)
        {
            return 0;
        }

        int length = (int)Math.Min((uint)bytes.Length, _configuration.Length) & ~3;
        for (int attempt = 0; attempt < 100; attempt++)
        {
            byte before = _common.Region.Read8(_common.Offset + virtio_pci.VIRTIO_PCI_COMMON_CFGGENERATION);
            for (int i = 0; i < length; i += sizeof(uint))
            {
                System.Buffers.Binary.BinaryPrimitives.WriteUInt32LittleEndian(
                    bytes[i..], _configuration.Region.Read32(_configuration.Offset + (ulong)i));
            }

            if (_common.Region.Read8(_common.Offset + virtio_pci.VIRTIO_PCI_COMMON_CFGGENERATION) == before)
            {
                return length;
            }
        }

        throw Fail("its configuration changed under each of 100 reads", "the device does not keep to the specification");
    }

    /// <summary>Marks the device as given up (virtio 1.3, 2.1: FAILED) and makes the exception that says why.</summary>
    internal VirtioException Fail(string what, string? cause = null, string? cure = null)
    {
        Status |= virtio_config.VIRTIO_CONFIG_S_FAILED;
        return new VirtioException(Address, what, cause, cure);
    }

    private static unsafe uint CommonBytes => (uint)sizeof(virtio_pci_common_cfg);

    // Registers answer without bus mastering, and a device that was left running must not master the bus before its reset.
    private void EnableMemory()
    {
        ushort command = _device.Configuration.Read16(pci_regs.PCI_COMMAND);
        _device.Configuration.Write16(pci_regs.PCI_COMMAND, (ushort)(command | pci_regs.PCI_COMMAND_MEMORY));
    }

    private VirtioFeatures ReadFeatures()
    {
        ulong features = 0;
        for (uint half = 0; half < 2; half++)
        {
            Write32(virtio_pci.VIRTIO_PCI_COMMON_DFSELECT, half);
            features |= (ulong)_common.Region.Read32(_common.Offset + virtio_pci.VIRTIO_PCI_COMMON_DF) << (int)(32 * half);
        }

        return (VirtioFeatures)features;
    }

    private void WriteFeatures(VirtioFeatures features)
    {
        for (uint half = 0; half < 2; half++)
        {
            Write32(virtio_pci.VIRTIO_PCI_COMMON_GFSELECT, half);
            Write32(virtio_pci.VIRTIO_PCI_COMMON_GF, (uint)(((ulong)features >> (int)(32 * half)) & uint.MaxValue));
        }
    }

    // virtio 1.3, 4.1.5.1.2 "MSI-X Vector Configuration": the device answers a vector that it cannot have with NO_VECTOR.
    private void SetVector(int register, int? vector, string what)
    {
        ushort wanted = (ushort)(vector ?? virtio_pci.VIRTIO_MSI_NO_VECTOR);
        Write16(register, wanted);
        if (Read16(register) != wanted)
        {
            throw Fail($"it takes no MSI-X vector {wanted} for {what}", "it has too few vectors",
                "poll instead, or in QEMU: vectors=N on the -device option");
        }
    }

    private ushort Read16(int register) => _common.Region.Read16(_common.Offset + (ulong)register);

    private void Write16(int register, ushort value) => _common.Region.Write16(_common.Offset + (ulong)register, value);

    private void Write32(int register, uint value) => _common.Region.Write32(_common.Offset + (ulong)register, value);

    private void Write64(int register, BusAddress value) => _common.Region.Write64(_common.Offset + (ulong)register, value.Value);
}
