using System.Buffers.Binary;
using Vfio.Linux;

namespace Vfio.Testing;

/// <summary>A modern virtio device over PCI (virtio 1.3, 4.1): its registers, features, status, queues and interrupts. A model
/// derives from it and moves what the queues hold.</summary>
/// <remarks>The layout is QEMU's: BAR 4 with the common structure at 0, ISR at 0x1000, the device's configuration at 0x2000 and
/// doorbells at 0x3000, 4 bytes a queue; BAR 1 for MSI-X. Registers trap, so select-then-access works exactly.</remarks>
public abstract class SimVirtioPciDevice : SimPciDevice
{
    private const ushort Vendor1af4 = 0x1af4;
    private const ushort FirstModernId = 0x1040;
    private const int StructuresBar = 4;
    private const int TableBar = 1;
    private const ulong Common = 0;
    private const ulong Isr = 0x1000;
    private const ulong DeviceConfiguration = 0x2000;
    private const ulong Doorbells = 0x3000;
    private const ulong End = 0x4000;
    private const uint Multiplier = 4;
    private const byte QueueInterrupt = 1;
    private const byte ConfigurationInterrupt = 2;
    private const ulong Version1 = 1ul << virtio_config.VIRTIO_F_VERSION_1;

    private readonly SimVirtqueue[] _queues;
    private readonly Lock _gate = new();
    private uint _deviceFeatureSelect;
    private uint _driverFeatureSelect;
    private ushort _queueSelect;
    private ushort _configurationVector = ushort.MaxValue;
    private byte _status;
    private byte _isr;

    /// <summary>Makes a device.</summary>
    /// <param name="address">Where it is plugged in.</param>
    /// <param name="type">The virtio device type: 1 network, 2 block.</param>
    /// <param name="features">What it offers.</param>
    /// <param name="queues">The greatest size of each of its queues.</param>
    /// <param name="vectors">MSI-X vectors; 0 for the legacy line alone.</param>
    /// <param name="mapsDoorbells">The page of doorbells is memory that a driver maps: the model then polls, and
    /// <see cref="OnNotify"/> is not called.</param>
    protected SimVirtioPciDevice(
        PciAddress address, int type, ulong features, IReadOnlyList<ushort> queues, int vectors = 0, bool mapsDoorbells = false)
        : base(address, Vendor1af4, (ushort)(FirstModernId + type), classCode: type == 2 ? 0x01_0000 : 0x02_0000)
    {
        ArgumentNullException.ThrowIfNull(queues);
        OfferedFeatures = features;
        _queues = [.. queues.Select((size, index) => new SimVirtqueue(index, size))];
        AddBar(StructuresBar, End, mapsDoorbells ? [(Doorbells, End - Doorbells)] : []);
        if (vectors > 0)
        {
            MsixVectors = vectors;
            MsixBar = TableBar;
            AddBar(TableBar, 0x1000, (0, 0x1000));
            Span<byte> table = stackalloc byte[10];
            BinaryPrimitives.WriteUInt16LittleEndian(table, (ushort)(vectors - 1));
            table[2] = TableBar;
            table[6] = TableBar;
            Configuration.AddCapability(pci_regs.PCI_CAP_ID_MSIX, table);
        }

        AddStructure(virtio_pci.VIRTIO_PCI_CAP_COMMON_CFG, Common, 64);
        AddStructure(virtio_pci.VIRTIO_PCI_CAP_ISR_CFG, Isr, 1);
        AddStructure(virtio_pci.VIRTIO_PCI_CAP_DEVICE_CFG, DeviceConfiguration, 0x1000);
        AddStructure(virtio_pci.VIRTIO_PCI_CAP_NOTIFY_CFG, Doorbells, (uint)(End - Doorbells), Multiplier);
    }

    public ulong OfferedFeatures { get; }

    /// <summary>What the driver chose; final once FEATURES_OK is set.</summary>
    public ulong DriverFeatures { get; private set; }

    /// <summary>The status field as the driver reads it.</summary>
    public byte Status => _status;

    public bool IsRunning => (_status & virtio_config.VIRTIO_CONFIG_S_DRIVER_OK) != 0;

    public IReadOnlyList<SimVirtqueue> Queues => _queues;

    /// <summary>Changes with every change of the configuration.</summary>
    public byte ConfigurationGeneration { get; set; }

    /// <summary>Tells the driver that a queue has used buffers: MSI-X if the driver switched it on, else the line.</summary>
    public void InterruptQueue(int queue) => Interrupt(QueueInterrupt, _queues[queue].Vector);

    /// <summary>Tells the driver that the configuration or the status changed.</summary>
    public void InterruptConfiguration() => Interrupt(ConfigurationInterrupt, _configurationVector);

    /// <summary>The device gives up: DEVICE_NEEDS_RESET (virtio 1.3, 2.1.2).</summary>
    public void Break()
    {
        lock (_gate)
        {
            _status |= virtio_config.VIRTIO_CONFIG_S_NEEDS_RESET;
        }

        InterruptConfiguration();
    }

    protected bool HasFeature(int bit) => (DriverFeatures >> bit & 1) != 0;

    /// <summary>Whether the device accepts the driver's choice, when that sets FEATURES_OK.</summary>
    protected virtual bool Accepts(ulong features) => (features & ~OfferedFeatures) == 0 && (features & Version1) != 0;

    /// <summary>Reads the device's own configuration.</summary>
    /// <param name="offset">Bytes from its start.</param>
    /// <param name="width">1, 2 or 4 bytes.</param>
    protected virtual uint OnReadConfiguration(ulong offset, int width) => 0;

    /// <summary>Writes the device's own configuration.</summary>
    protected virtual void OnWriteConfiguration(ulong offset, int width, uint value)
    {
    }

    /// <summary>The driver switched a queue on.</summary>
    protected virtual void OnQueueEnabled(SimVirtqueue queue)
    {
    }

    /// <summary>The driver rang a queue's doorbell.</summary>
    /// <param name="queue">Whose doorbell.</param>
    /// <param name="value">What it wrote: the queue's number, or with NOTIFICATION_DATA more.</param>
    protected virtual void OnNotify(SimVirtqueue queue, uint value)
    {
    }

    /// <summary>The driver set DRIVER_OK.</summary>
    protected virtual void OnStart()
    {
    }

    /// <summary>The device must stop: the driver wrote status 0, or it is reset as a whole. When this returns it touches no memory.
    /// The queues are forgotten afterwards.</summary>
    protected virtual void OnStop()
    {
    }

    protected sealed override void OnReset()
    {
        OnStop();
        lock (_gate)
        {
            _status = 0;
            _isr = 0;
            DriverFeatures = 0;
            _deviceFeatureSelect = 0;
            _driverFeatureSelect = 0;
            _queueSelect = 0;
            _configurationVector = ushort.MaxValue;
            foreach (SimVirtqueue queue in _queues)
            {
                queue.Reset();
            }
        }

        SetInterruptLine(false);
    }

    protected sealed override uint OnRead(int region, ulong offset, int width) => (region, offset) switch
    {
        (StructuresBar, < Isr) => ReadCommon((int)offset, width),
        (StructuresBar, Isr) => TakeIsr(),
        (StructuresBar, >= DeviceConfiguration and < Doorbells) => OnReadConfiguration(offset - DeviceConfiguration, width),
        _ => 0,
    };

    protected sealed override void OnWrite(int region, ulong offset, int width, uint value)
    {
        switch (region, offset)
        {
            case (StructuresBar, < Isr):
                WriteCommon((int)offset, width, value);
                break;
            case (StructuresBar, >= DeviceConfiguration and < Doorbells):
                OnWriteConfiguration(offset - DeviceConfiguration, width, value);
                break;
            case (StructuresBar, >= Doorbells):
                ulong number = (offset - Doorbells) / Multiplier;
                if (number < (ulong)_queues.Length && _queues[number].IsEnabled)
                {
                    OnNotify(_queues[number], value);
                }

                break;
        }
    }

    // virtio 1.3, 4.1.4 "Virtio Structure PCI Capabilities".
    private void AddStructure(byte type, ulong offset, uint length, uint? multiplier = null)
    {
        Span<byte> body = stackalloc byte[multiplier is null ? 14 : 18];
        body.Clear();
        body[0] = (byte)(body.Length + 2);
        body[1] = type;
        body[2] = StructuresBar;
        BinaryPrimitives.WriteUInt32LittleEndian(body[6..], (uint)offset);
        BinaryPrimitives.WriteUInt32LittleEndian(body[10..], length);
        if (multiplier is { } value)
        {
            BinaryPrimitives.WriteUInt32LittleEndian(body[14..], value);
        }

        Configuration.AddCapability(pci_regs.PCI_CAP_ID_VNDR, body);
    }

    // virtio 1.3, 4.1.4.3 "Common configuration structure layout". Registers are read with their own width only (4.1.3.1), so
    // another width is a mistake of the driver's.
    private uint ReadCommon(int register, int width)
    {
        lock (_gate)
        {
            SimVirtqueue? queue = _queueSelect < _queues.Length ? _queues[_queueSelect] : null;
            return (register, width) switch
            {
                (virtio_pci.VIRTIO_PCI_COMMON_DFSELECT, 4) => _deviceFeatureSelect,
                (virtio_pci.VIRTIO_PCI_COMMON_DF, 4) => Half(OfferedFeatures, _deviceFeatureSelect),
                (virtio_pci.VIRTIO_PCI_COMMON_GFSELECT, 4) => _driverFeatureSelect,
                (virtio_pci.VIRTIO_PCI_COMMON_GF, 4) => Half(DriverFeatures, _driverFeatureSelect),
                (virtio_pci.VIRTIO_PCI_COMMON_MSIX, 2) => _configurationVector,
                (virtio_pci.VIRTIO_PCI_COMMON_NUMQ, 2) => (uint)_queues.Length,
                (virtio_pci.VIRTIO_PCI_COMMON_STATUS, 1) => _status,
                (virtio_pci.VIRTIO_PCI_COMMON_CFGGENERATION, 1) => ConfigurationGeneration,
                (virtio_pci.VIRTIO_PCI_COMMON_Q_SELECT, 2) => _queueSelect,
                // A queue that does not exist has size 0.
                (virtio_pci.VIRTIO_PCI_COMMON_Q_SIZE, 2) => queue?.Size ?? 0,
                (virtio_pci.VIRTIO_PCI_COMMON_Q_MSIX, 2) => queue?.Vector ?? ushort.MaxValue,
                (virtio_pci.VIRTIO_PCI_COMMON_Q_ENABLE, 2) => queue?.IsEnabled == true ? 1u : 0,
                (virtio_pci.VIRTIO_PCI_COMMON_Q_NOFF, 2) => (uint)(queue?.Index ?? 0),
                (virtio_pci.VIRTIO_PCI_COMMON_Q_DESCLO, 4) => Half(queue?.Descriptors.Value ?? 0, 0),
                (virtio_pci.VIRTIO_PCI_COMMON_Q_DESCHI, 4) => Half(queue?.Descriptors.Value ?? 0, 1),
                (virtio_pci.VIRTIO_PCI_COMMON_Q_AVAILLO, 4) => Half(queue?.Driver.Value ?? 0, 0),
                (virtio_pci.VIRTIO_PCI_COMMON_Q_AVAILHI, 4) => Half(queue?.Driver.Value ?? 0, 1),
                (virtio_pci.VIRTIO_PCI_COMMON_Q_USEDLO, 4) => Half(queue?.Device.Value ?? 0, 0),
                (virtio_pci.VIRTIO_PCI_COMMON_Q_USEDHI, 4) => Half(queue?.Device.Value ?? 0, 1),
                _ => throw new InvalidOperationException($"{Address}: read of {width} bytes at register {register} of the common structure"),
            };
        }
    }

    private void WriteCommon(int register, int width, uint value)
    {
        if ((register, width) == (virtio_pci.VIRTIO_PCI_COMMON_STATUS, 1))
        {
            WriteStatus((byte)value);
            return;
        }

        SimVirtqueue? enabled = null;
        lock (_gate)
        {
            SimVirtqueue? queue = _queueSelect < _queues.Length ? _queues[_queueSelect] : null;
            switch (register, width)
            {
                case (virtio_pci.VIRTIO_PCI_COMMON_DFSELECT, 4):
                    _deviceFeatureSelect = value;
                    break;
                case (virtio_pci.VIRTIO_PCI_COMMON_GFSELECT, 4):
                    _driverFeatureSelect = value;
                    break;
                case (virtio_pci.VIRTIO_PCI_COMMON_GF, 4):
                    // After FEATURES_OK the choice stands (2.2.1).
                    DriverFeatures = (_status & virtio_config.VIRTIO_CONFIG_S_FEATURES_OK) != 0
                        ? DriverFeatures : WithHalf(DriverFeatures, _driverFeatureSelect, value);
                    break;
                case (virtio_pci.VIRTIO_PCI_COMMON_MSIX, 2):
                    _configurationVector = VectorOrNone(value);
                    break;
                case (virtio_pci.VIRTIO_PCI_COMMON_Q_SELECT, 2):
                    _queueSelect = (ushort)value;
                    break;
                case (virtio_pci.VIRTIO_PCI_COMMON_Q_SIZE, 2) when queue is not null:
                    queue.Size = (ushort)value;
                    break;
                case (virtio_pci.VIRTIO_PCI_COMMON_Q_MSIX, 2) when queue is not null:
                    queue.Vector = VectorOrNone(value);
                    break;
                case (virtio_pci.VIRTIO_PCI_COMMON_Q_ENABLE, 2) when queue is not null && value == 1:
                    queue.IsEnabled = true;
                    enabled = queue;
                    break;
                case (virtio_pci.VIRTIO_PCI_COMMON_Q_DESCLO or virtio_pci.VIRTIO_PCI_COMMON_Q_DESCHI, 4) when queue is not null:
                    queue.Descriptors = WithHalf(queue.Descriptors, register - virtio_pci.VIRTIO_PCI_COMMON_Q_DESCLO, value);
                    break;
                case (virtio_pci.VIRTIO_PCI_COMMON_Q_AVAILLO or virtio_pci.VIRTIO_PCI_COMMON_Q_AVAILHI, 4) when queue is not null:
                    queue.Driver = WithHalf(queue.Driver, register - virtio_pci.VIRTIO_PCI_COMMON_Q_AVAILLO, value);
                    break;
                case (virtio_pci.VIRTIO_PCI_COMMON_Q_USEDLO or virtio_pci.VIRTIO_PCI_COMMON_Q_USEDHI, 4) when queue is not null:
                    queue.Device = WithHalf(queue.Device, register - virtio_pci.VIRTIO_PCI_COMMON_Q_USEDLO, value);
                    break;
                default:
                    throw new InvalidOperationException(
                        $"{Address}: write of {width} bytes at register {register} of the common structure, queue {_queueSelect} selected");
            }
        }

        if (enabled is not null)
        {
            OnQueueEnabled(enabled);
        }
    }

    // virtio 1.3, 2.1 "Device Status Field": bits are added one after the other; 0 resets.
    private void WriteStatus(byte value)
    {
        if (value == 0)
        {
            OnReset();
            return;
        }

        bool starts;
        lock (_gate)
        {
            const byte Ok = virtio_config.VIRTIO_CONFIG_S_FEATURES_OK;
            bool refuses = (value & Ok) != 0 && (_status & Ok) == 0 && !Accepts(DriverFeatures);
            byte accepted = refuses ? (byte)(value & ~Ok) : value;
            starts = (accepted & ~_status & virtio_config.VIRTIO_CONFIG_S_DRIVER_OK) != 0;
            _status = accepted;
        }

        if (starts)
        {
            OnStart();
        }
    }

    private static uint Half(ulong value, uint half) => half switch
    {
        0 => (uint)(value & uint.MaxValue),
        1 => (uint)(value >> 32),
        _ => 0,
    };

    private static ulong WithHalf(ulong value, uint half, uint part) => half switch
    {
        0 => (value & ~(ulong)uint.MaxValue) | part,
        1 => (value & uint.MaxValue) | ((ulong)part << 32),
        _ => value,
    };

    private static Iova WithHalf(Iova value, int distance, uint part) => new(WithHalf(value.Value, distance == 0 ? 0u : 1u, part));

    private ushort VectorOrNone(uint value) => value < (uint)MsixVectors ? (ushort)value : ushort.MaxValue;

    // virtio 1.3, 4.1.4.5 "ISR status capability": reading takes it and lowers the line.
    private byte TakeIsr()
    {
        byte isr;
        lock (_gate)
        {
            isr = _isr;
            _isr = 0;
        }

        SetInterruptLine(false);
        return isr;
    }

    private void Interrupt(byte reason, ushort vector)
    {
        if (AreInterruptsOn(VfioInterruptKind.Msix))
        {
            if (vector != ushort.MaxValue)
            {
                SendMessage(VfioInterruptKind.Msix, vector);
            }

            return;
        }

        lock (_gate)
        {
            _isr |= reason;
        }

        SetInterruptLine(true);
    }
}
