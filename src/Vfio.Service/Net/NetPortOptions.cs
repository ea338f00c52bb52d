using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.Service;

/// <summary>What a network port is to be like.</summary>
/// <param name="Name">How it is called.</param>
public sealed record NetPortOptions(string Name)
{
    /// <summary>The smallest <see cref="IotlbSize"/>: room for all that both queues of a pair ask for at once.</summary>
    public const int MinIotlbSize = 1024;

    /// <summary>The largest <see cref="IotlbSize"/>: 4 GiB of pages of 4 KiB of which no two lie together.</summary>
    public const int MaxIotlbSize = 1 << 20;

    /// <summary>Where the socket is; null with <see cref="Connection"/>.</summary>
    public string? SocketPath { get; init; }

    /// <summary>Connect to the socket, again and again, in place of listening there.</summary>
    public bool IsClient { get; init; }

    /// <summary>A connected socket, the only one that the port serves; the port's own once it was added.</summary>
    public UnixSocket? Connection { get; init; }

    /// <summary>What happens to frames.</summary>
    public ForwardMode Mode { get; init; } = ForwardMode.Io;

    /// <summary>Bytes of the frames of <see cref="ForwardMode.TxOnly"/>.</summary>
    public int FrameSize { get; init; } = 64;

    /// <summary>The port that its frames go to and come from, which may be added later; null: back to where they came from, unless
    /// another port names this one.</summary>
    public string? Peer { get; init; }

    /// <summary>A poller on each, shared with other ports that name it; empty: one poller, where the scheduler puts it.</summary>
    public IReadOnlyList<Processor> Processors { get; init; } = [];

    /// <summary>Pairs of queues, 1 to 128.</summary>
    public int QueuePairs { get; init; } = 1;

    /// <summary>Features that may be offered; the rest is not, whatever this program can do.</summary>
    public VirtioFeatures FeatureMask { get; init; } = (VirtioFeatures)ulong.MaxValue;

    /// <summary>The MTU that the guest is told, until the front-end sets another.</summary>
    public int Mtu { get; init; } = 1500;

    /// <summary>Translations that the device's IOTLB holds, <see cref="MinIotlbSize"/> to <see cref="MaxIotlbSize"/>; those that a ring
    /// lies in come on top. Matters only with VIRTIO_F_ACCESS_PLATFORM.</summary>
    public int IotlbSize { get; init; } = VhostUser.DeviceIotlb.DefaultCapacity;

    internal bool Forwards => Mode is ForwardMode.Io or ForwardMode.MacSwap;
}
