using System.Buffers.Binary;
using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.Testing;

/// <summary>A virtio-blk device over PCI, in its modern form: all its registers trap, its one queue is the product's own device side,
/// and it reaches memory through the simulated IOMMU. Requests run on the thread that rings the doorbell.</summary>
public sealed unsafe class SimVirtioBlock : SimPciDevice
{
    private const int Bar4 = 4;
    private const ulong Common = 0x0000;
    private const ulong Isr = 0x1000;
    private const ulong Config = 0x2000;
    private const ulong Doorbells = 0x3000;
    private const ulong BarBytes = 0x4000;
    private const uint Multiplier = 4;
    private const int SectorBytes = 512;

    private readonly byte[] _registers = new byte[64];
    private readonly byte[] _config = new byte[60];
    private readonly byte[] _medium;
    private uint _featureSelect;
    private uint _driverSelect;
    private DeviceQueue? _queue;

    public SimVirtioBlock(PciAddress address, SimVirtioBlockOptions? options = null)
        : base(address, 0x1AF4, 0x1042, 0x010000)
    {
        Options = options ?? new SimVirtioBlockOptions();
        _medium = new byte[Options.Sectors * SectorBytes];
        MsixVectors = Options.MsixVectors;
        AddBar(Bar4, BarBytes);
        BinaryPrimitives.WriteUInt64LittleEndian(_config, (ulong)Options.Sectors);
        BinaryPrimitives.WriteUInt32LittleEndian(_config.AsSpan(8), Options.SizeMax);
        BinaryPrimitives.WriteUInt32LittleEndian(_config.AsSpan(12), Options.SegMax);
        BinaryPrimitives.WriteUInt32LittleEndian(_config.AsSpan(20), Options.BlockSize);
        AddCapability(virtio_pci.VIRTIO_PCI_CAP_COMMON_CFG, Common, 56);
        AddCapability(virtio_pci.VIRTIO_PCI_CAP_ISR_CFG, Isr, 4);
        AddCapability(virtio_pci.VIRTIO_PCI_CAP_NOTIFY_CFG, Doorbells, Options.NotifyLength, Multiplier);
        int last = AddCapability(virtio_pci.VIRTIO_PCI_CAP_DEVICE_CFG, Config, (uint)_config.Length);
        if (Options.LoopsCapabilities)
        {
            // The last one's link leads back to the first, at 0x40.
            Configuration.Write16(last, (ushort)(Configuration.Read16(last) | 0x4000));
        }
    }

    public SimVirtioBlockOptions Options { get; }

    /// <summary>The medium.</summary>
    public Span<byte> Medium => _medium;

    /// <summary>Requests that arrived, by type.</summary>
    public Dictionary<uint, int> Requests { get; } = [];

    /// <summary>The status register.</summary>
    public byte Status { get; private set; }

    /// <summary>The most pieces of data that a request had, and the longest of them.</summary>
    public (int Count, uint Bytes) LargestPieces { get; private set; }

    /// <summary>Takes the requests that are there; a doorbell does it too, unless the device is told to be silent.</summary>
    public void Serve()
    {
        if (_queue is null)
        {
            return;
        }

        var translator = new SimTranslator(this);
        var chains = new DescriptorChain[32];
        var segments = new HostSegment[1024];
        do
        {
            int count;
            while ((count = _queue.Peek(ref translator, chains, segments)) != 0)
            {
                _queue.Consume(chains.AsSpan(0, count));
                _queue.Complete([.. chains.Take(count).Select(chain => chain.Used(Run(chain, segments)))]);
                if (_queue.Publish())
                {
                    SendMessage(VfioInterruptKind.Msix, Read16(virtio_pci.VIRTIO_PCI_COMMON_Q_MSIX));
                }
            }

            if (_queue.Error != RingError.None)
            {
                throw new InvalidOperationException($"the driver broke the ring: {_queue.Error}");
            }
        }
        while (_queue.EnableNotifications());
    }

    /// <summary>The device gives up until it is reset.</summary>
    public void GiveUp() => Status |= virtio_config.VIRTIO_CONFIG_S_NEEDS_RESET;

    protected override uint OnRead(int region, ulong offset, int width)
    {
        if (offset >= Config && offset < Config + (ulong)_config.Length)
        {
            uint value = 0;
            for (int i = 0; i < width; i++)
            {
                value |= (uint)_config[(int)(offset - Config) + i] << (8 * i);
            }

            // The configuration changes under the reader's hands as often as it was told to.
            if (Options.ConfigurationChanges > 0)
            {
                Options.ConfigurationChanges--;
                byte generation = _registers[virtio_pci.VIRTIO_PCI_COMMON_CFGGENERATION];
                _registers[virtio_pci.VIRTIO_PCI_COMMON_CFGGENERATION] = unchecked((byte)(generation + 1));
            }

            return value;
        }

        return (int)offset switch
        {
            virtio_pci.VIRTIO_PCI_COMMON_DF => Half((ulong)Options.Features, _featureSelect),
            virtio_pci.VIRTIO_PCI_COMMON_STATUS => Status,
            virtio_pci.VIRTIO_PCI_COMMON_NUMQ => 1,
            virtio_pci.VIRTIO_PCI_COMMON_Q_SIZE => Read16(virtio_pci.VIRTIO_PCI_COMMON_Q_SELECT) == 0 ? (uint)Options.QueueSize : 0,
            virtio_pci.VIRTIO_PCI_COMMON_Q_NOFF => Options.NotifyOffset,
            < 64 when width == 1 => _registers[(int)offset],
            < 64 when width == 2 => Read16((int)offset),
            < 64 => BinaryPrimitives.ReadUInt32LittleEndian(_registers.AsSpan((int)offset)),
            _ => uint.MaxValue,
        };
    }

    protected override void OnWrite(int region, ulong offset, int width, uint value)
    {
        switch ((int)offset)
        {
            case virtio_pci.VIRTIO_PCI_COMMON_DFSELECT:
                _featureSelect = value;
                break;
            case virtio_pci.VIRTIO_PCI_COMMON_GFSELECT:
                _driverSelect = value;
                break;
            case virtio_pci.VIRTIO_PCI_COMMON_GF:
                int shift = (int)(32 * _driverSelect);
                DriverFeatures = (DriverFeatures & ~(VirtioFeatures)(0xFFFF_FFFFul << shift)) | (VirtioFeatures)((ulong)value << shift);
                break;
            case virtio_pci.VIRTIO_PCI_COMMON_STATUS:
                SetStatus((byte)value);
                break;
            case virtio_pci.VIRTIO_PCI_COMMON_Q_MSIX or virtio_pci.VIRTIO_PCI_COMMON_MSIX:
                bool taken = value < MsixVectors && AreInterruptsOn(VfioInterruptKind.Msix);
                Write16((int)offset, taken ? (ushort)value : virtio_pci.VIRTIO_MSI_NO_VECTOR);
                break;
            case virtio_pci.VIRTIO_PCI_COMMON_Q_ENABLE:
                EnableQueue();
                break;
            case < 64:
                Write(_registers.AsSpan((int)offset), width, value);
                break;
            case (int)Doorbells when !Options.IsSilent:
                Serve();
                break;
        }
    }

    protected override void OnReset() => SetStatus(0);

    /// <summary>What the driver chose.</summary>
    public VirtioFeatures DriverFeatures { get; private set; }

    private static uint Half(ulong features, uint select) => (uint)((features >> (int)(32 * (select & 1))) & uint.MaxValue);

    private static void Write(Span<byte> place, int width, uint value)
    {
        for (int i = 0; i < width; i++)
        {
            place[i] = (byte)((value >> (8 * i)) & 0xFF);
        }
    }

    private void SetStatus(byte value)
    {
        if (value == 0 && Options.IsStuck)
        {
            Status = virtio_config.VIRTIO_CONFIG_S_DRIVER;
            return;
        }

        Status = value;
        if (value == 0)
        {
            _queue = null;
            DriverFeatures = VirtioFeatures.None;
            _registers.AsSpan().Clear();
        }
        else if ((value & virtio_config.VIRTIO_CONFIG_S_FEATURES_OK) != 0 && Options.RefusesFeatures)
        {
            Status = (byte)(value & ~virtio_config.VIRTIO_CONFIG_S_FEATURES_OK);
        }
    }

    private void EnableQueue() => _queue = new SimTranslator(this).Open(
        Read16(virtio_pci.VIRTIO_PCI_COMMON_Q_SIZE),
        DriverFeatures,
        Read64(virtio_pci.VIRTIO_PCI_COMMON_Q_DESCLO),
        Read64(virtio_pci.VIRTIO_PCI_COMMON_Q_AVAILLO),
        Read64(virtio_pci.VIRTIO_PCI_COMMON_Q_USEDLO));

    private Iova Read64(int register) => new(BinaryPrimitives.ReadUInt64LittleEndian(_registers.AsSpan(register)));

    private uint Run(DescriptorChain chain, HostSegment[] segments)
    {
        // virtio 1.3, 5.2.6 "Device Operation": 16 bytes of header, data, one byte of status.
        ReadOnlySpan<HostSegment> readable = chain.Readable(segments);
        ReadOnlySpan<HostSegment> writable = chain.Writable(segments);
        virtio_blk_outhdr header = *(virtio_blk_outhdr*)readable[0].Base;
        Requests[header.type] = Requests.GetValueOrDefault(header.type) + 1;
        byte status = Options.Answer?.Invoke(header.type, header.sector) ?? virtio_blk.VIRTIO_BLK_S_OK;
        uint written = 1;
        if (status == virtio_blk.VIRTIO_BLK_S_OK)
        {
            int position = (int)header.sector * SectorBytes;
            ReadOnlySpan<HostSegment> data = header.type == virtio_blk.VIRTIO_BLK_T_OUT ? readable[1..] : writable[..^1];
            foreach (HostSegment segment in data)
            {
                Span<byte> medium = _medium.AsSpan(position, (int)segment.Length);
                if (header.type == virtio_blk.VIRTIO_BLK_T_OUT)
                {
                    segment.Span.CopyTo(medium);
                }
                else
                {
                    medium.CopyTo(segment.Span);
                    written += segment.Length;
                }

                position += (int)segment.Length;
                LargestPieces = (Math.Max(LargestPieces.Count, data.Length), Math.Max(LargestPieces.Bytes, segment.Length));
            }
        }

        if (!Options.WritesNoStatus)
        {
            writable[^1].Span[0] = status;
        }

        return Options.LengthOf?.Invoke(written) ?? written;
    }

    private int AddCapability(byte type, ulong offset, uint length, uint? multiplier = null)
    {
        if (type == Options.MissingCapability)
        {
            return 0;
        }

        Span<byte> body = stackalloc byte[multiplier is null ? 14 : 18];
        body.Clear();
        body[0] = (byte)(body.Length + 2);
        body[1] = type;
        body[2] = Bar4;
        BinaryPrimitives.WriteUInt32LittleEndian(body[6..], type == Options.StrayCapability ? (uint)BarBytes : (uint)offset);
        BinaryPrimitives.WriteUInt32LittleEndian(body[10..], length);
        if (multiplier is { } bytes)
        {
            BinaryPrimitives.WriteUInt32LittleEndian(body[14..], bytes);
        }

        return Configuration.AddCapability(pci_regs.PCI_CAP_ID_VNDR, body);
    }

    private ushort Read16(int register) => BinaryPrimitives.ReadUInt16LittleEndian(_registers.AsSpan(register));

    private void Write16(int register, ushort value) => BinaryPrimitives.WriteUInt16LittleEndian(_registers.AsSpan(register), value);
}
