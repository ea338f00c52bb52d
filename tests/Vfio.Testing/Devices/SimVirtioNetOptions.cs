using Vfio.Virtio;

namespace Vfio.Testing;

/// <summary>What a simulated network device is like, and what it does wrong.</summary>
public sealed class SimVirtioNetOptions
{
    public VirtioFeatures Features { get; init; } =
        VirtioFeatures.Version1 | VirtioFeatures.AccessPlatform | VirtioFeatures.RingEventIdx | VirtioFeatures.RingIndirectDesc
        | VirtioFeatures.RingPacked | VirtioFeatures.InOrder
        | (VirtioFeatures)(NetFeatures.Mac | NetFeatures.Status | NetFeatures.Mtu | NetFeatures.MrgRxbuf);

    /// <summary>Entries of the receive queue and of the transmit queue.</summary>
    public (int Receive, int Transmit) QueueSizes { get; init; } = (256, 256);

    public ushort Mtu { get; init; } = 1500;

    public ulong Mac { get; init; } = 0x01_00_00_12_54_52;

    public int MsixVectors { get; init; }

    /// <summary>Doorbells are plain memory: the test calls <see cref="SimVirtioNet.Serve"/>.</summary>
    public bool MapsDoorbells { get; init; }

    /// <summary>Every frame that the driver sends comes back to it.</summary>
    public bool IsLoop { get; set; }

    /// <summary>What becomes of a frame on its way back; null for a lost one.</summary>
    public Func<byte[], byte[]?>? OnWire { get; set; }

    /// <summary>Doorbells do nothing.</summary>
    public bool IsSilent { get; set; }

    /// <summary>The number of buffers in the header instead of the true one.</summary>
    public Func<int, int>? BuffersOf { get; set; }

    /// <summary>The used length of a received buffer instead of the true one.</summary>
    public Func<uint, uint>? LengthOf { get; set; }

    /// <summary>The id of a used chain instead of the true one.</summary>
    public Func<ushort, ushort>? IdOf { get; set; }
}
