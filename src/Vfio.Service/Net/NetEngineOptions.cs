using Vfio.Linux;

namespace Vfio.Service;

/// <summary>What a network back-end is to do.</summary>
public sealed record NetEngineOptions
{
    /// <summary>What happens to frames.</summary>
    public required ForwardMode Mode { get; init; }

    /// <summary>One port, or two back to back.</summary>
    public required IReadOnlyList<NetPortOptions> Ports { get; init; }

    /// <summary>A poller for each; empty: one poller, where the scheduler puts it.</summary>
    public IReadOnlyList<Processor> Processors { get; init; } = [];

    /// <summary>Bytes of the frames of <see cref="ForwardMode.TxOnly"/>.</summary>
    public int FrameSize { get; init; } = 64;
}
