using Vfio.Virtio;

namespace Vfio.Service;

/// <summary>What a network port is to be like.</summary>
/// <param name="Name">How it is called in messages.</param>
public sealed record NetPortOptions(string Name)
{
    /// <summary>Where the socket is; null with <see cref="Descriptor"/>.</summary>
    public string? SocketPath { get; init; }

    /// <summary>Connect to the socket, again and again, in place of listening there.</summary>
    public bool IsClient { get; init; }

    /// <summary>A connected socket that was inherited.</summary>
    public int? Descriptor { get; init; }

    /// <summary>Pairs of queues, 1 to 128.</summary>
    public int QueuePairs { get; init; } = 1;

    /// <summary>Features that may be offered; the rest is not, whatever this program can do.</summary>
    public VirtioFeatures FeatureMask { get; init; } = (VirtioFeatures)ulong.MaxValue;

    /// <summary>The MTU that the guest is told, until the front-end sets another.</summary>
    public int Mtu { get; init; } = 1500;
}
