using Vfio.Virtio;

namespace Vfio.Testing;

/// <summary>What a simulated block device is like, and what it does wrong.</summary>
public sealed class SimVirtioBlockOptions
{
    public VirtioFeatures Features { get; init; } =
        VirtioFeatures.Version1 | VirtioFeatures.AccessPlatform | VirtioFeatures.RingEventIdx | VirtioFeatures.RingIndirectDesc
        | VirtioFeatures.RingPacked | VirtioFeatures.InOrder | (VirtioFeatures)(VirtioBlockFeatures.Flush | VirtioBlockFeatures.SegMax);

    public int Sectors { get; init; } = 2048;

    public uint BlockSize { get; init; } = 512;

    public uint SizeMax { get; init; }

    public uint SegMax { get; init; } = 30;

    public int QueueSize { get; init; } = 256;

    public int MsixVectors { get; init; } = 2;

    /// <summary>VIRTIO_PCI_CAP_* that is not in the list.</summary>
    public byte MissingCapability { get; init; }

    /// <summary>VIRTIO_PCI_CAP_* whose structure lies beyond its BAR.</summary>
    public byte StrayCapability { get; init; }

    /// <summary>The capability list has no end.</summary>
    public bool LoopsCapabilities { get; init; }

    public uint NotifyLength { get; init; } = 0x1000;

    public ushort NotifyOffset { get; init; }

    /// <summary>It never accepts the driver's choice of features.</summary>
    public bool RefusesFeatures { get; init; }

    /// <summary>A reset does not end.</summary>
    public bool IsStuck { get; set; }

    /// <summary>Doorbells do nothing.</summary>
    public bool IsSilent { get; set; }

    /// <summary>Reads of its configuration during which the configuration changes.</summary>
    public int ConfigurationChanges { get; set; }

    /// <summary>The status of a request by its type and sector, or null to do it.</summary>
    public Func<uint, ulong, byte?>? Answer { get; set; }

    /// <summary>It completes requests without a status.</summary>
    public bool WritesNoStatus { get; set; }

    /// <summary>The used length instead of the true one.</summary>
    public Func<uint, uint>? LengthOf { get; set; }
}
