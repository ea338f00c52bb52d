using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.Service;

/// <summary>A port that is wanted: the parameters of <c>port.add</c>. Where no socket is named, a connected one comes along with the
/// call as a descriptor.</summary>
/// <param name="Name">Its name: letters, digits, dots, dashes and underscores, at most 48.</param>
public sealed record PortRequest(string Name)
{
    // What is left of a pool's name behind "port-", and more than anybody reads.
    private const int LongestName = 48;

    // unix(7), sun_path without its end.
    private const int LongestPath = 107;

    private const int MostQueuePairs = 128;

    /// <summary>Where the socket is, an absolute path; null: a connected one comes along.</summary>
    public string? SocketPath { get; init; }

    /// <summary>Whether to connect to the socket, again and again, in place of listening there.</summary>
    public bool Client { get; init; }

    /// <summary>What to do with frames.</summary>
    public ForwardMode Forward { get; init; } = ForwardMode.Io;

    /// <summary>Bytes of a generated frame.</summary>
    public int FrameSize { get; init; } = 64;

    /// <summary>The port that frames go to and come from; it may be added later.</summary>
    public string? Peer { get; init; }

    /// <summary>Pairs of queues.</summary>
    public int Queues { get; init; } = 1;

    /// <summary>Processors, a poller on each; none: one poller, where the scheduler puts it.</summary>
    public IReadOnlyList<int> Cores { get; init; } = [];

    /// <summary>Virtio features that may be offered.</summary>
    public ulong FeatureMask { get; init; } = ulong.MaxValue;

    /// <summary>The pool to take the memory for frames from; null: the port has memory of its own.</summary>
    public string? Pool { get; init; }

    /// <summary>The devices that the port's own memory is pinned for; none: it is not pinned.</summary>
    public IReadOnlyList<PciAddress> Devices { get; init; } = [];

    /// <summary>Bytes of the port's own memory; null for what it needs.</summary>
    public ulong? PoolSize { get; init; }

    /// <summary>The pages of the port's own memory, by name; the first that can be had.</summary>
    public IReadOnlyList<string> PageSizes { get; init; } = ["2MiB", "thp"];

    /// <summary>Translations that the IOTLB of a card behind the guest's IOMMU holds.</summary>
    public int IotlbSize { get; init; } = VhostUser.DeviceIotlb.DefaultCapacity;

    /// <summary>Checks the request.</summary>
    internal NetPortOptions ToOptions(UnixSocket? connection)
    {
        (bool Right, string Detail, string Cause)[] rules =
        [
            (Name.Length is > 0 and <= LongestName && Name.All(c => char.IsAsciiLetterOrDigit(c) || c is '.' or '-' or '_'),
                $"\"{Name}\"", "a port's name has 1 to 48 letters, digits, dots, dashes or underscores"),
            ((SocketPath is null) == (connection is not null), Name, "a port has either the path of a socket or a connected one"),
            (SocketPath is null || Path.IsPathRooted(SocketPath), $"{SocketPath}", "the path of a socket starts at the root"),
            (SocketPath is null || System.Text.Encoding.UTF8.GetByteCount(SocketPath) <= LongestPath,
                $"{SocketPath}", $"the path of a socket has at most {LongestPath} bytes"),
            (SocketPath is not null || !Client, Name, "a connected socket is not connected again"),
            (Queues is >= 1 and <= MostQueuePairs, $"{Queues} queues", $"a port has 1 to {MostQueuePairs} pairs of queues"),
            (FrameSize is >= VhostUser.Frame.MinLength and <= VhostUser.Frame.MaxLength, $"frames of {FrameSize} bytes",
                $"a frame has {VhostUser.Frame.MinLength} to {VhostUser.Frame.MaxLength} bytes"),
            (IotlbSize is >= NetPortOptions.MinIotlbSize and <= NetPortOptions.MaxIotlbSize, $"an IOTLB of {IotlbSize} translations",
                $"an IOTLB has room for {NetPortOptions.MinIotlbSize} to {NetPortOptions.MaxIotlbSize}"),
            (Enum.IsDefined(Forward), $"{Forward}", "frames are forwarded by rxonly, txonly, io or macswap"),
            (Cores.All(c => c is >= 0 and < 8192), string.Join(',', Cores), "processors have numbers from 0 to 8191"),
            (Pool is null || (Devices.Count == 0 && PoolSize is null), $"pool {Pool}", "either a pool is named, or the port has memory of its own"),
        ];
        foreach ((bool right, string detail, string cause) in rules)
        {
            if (!right)
            {
                throw new LinuxException("port add", Errno.EINVAL, detail, cause, "see --help of the command");
            }
        }

        return new NetPortOptions(Name)
        {
            SocketPath = SocketPath,
            IsClient = Client,
            Connection = connection,
            Mode = Forward,
            FrameSize = FrameSize,
            Peer = Peer,
            QueuePairs = Queues,
            Processors = [.. Cores.Select(c => new Processor(c))],
            FeatureMask = (VirtioFeatures)FeatureMask,
            IotlbSize = IotlbSize,
        };
    }
}
