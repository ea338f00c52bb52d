using System.CommandLine;
using System.Globalization;
using Vfio.Service;
using Vfio.VhostUser;

namespace Vfio.Cli.Verbs;

/// <summary>The options that say what a network port shall be like.</summary>
internal sealed class PortShape
{
    private readonly Option<bool> _client = new("--client") { Description = "Connect to the socket, and again when the front-end comes back" };

    private readonly Option<ForwardMode> _forward = new("--forward")
    {
        Description = "What to do with frames: rxonly (drop), txonly (generate), io (send on, or back), macswap",
        HelpName = "rxonly|txonly|io|macswap",
        DefaultValueFactory = _ => ForwardMode.Io,
        CustomParser = WordParser.Parse<ForwardMode>,
    };

    private readonly Option<string?> _cores = new("--cores") { Description = "Processors, a poller on each, such as 1 or 2,3", HelpName = "LIST" };
    private readonly Option<int> _queues = new("--queues") { Description = "Pairs of queues of each port, 1 to 128", HelpName = "N", DefaultValueFactory = _ => 1 };
    private readonly Option<ulong?> _poolSize = SizeParser.Option("--pool-size", "Memory for the frames of all ports of the command; 4MiB for each pair of queues by default, in whole pages of the largest that --page-size names");

    private readonly Option<PciAddress[]> _devices = AddressParser.Option(
        "--device", "Pin the memory for this device, which is on vfio-pci; may be said more than once", required: false);

    private readonly Option<int> _frameSize = new("--frame-size") { Description = "Bytes of a generated frame, 14 to 65558", HelpName = "N", DefaultValueFactory = _ => 64 };

    private readonly Option<PageSizeList> _pageSizes = PageSizeList.Option("Pages of that memory", "2MiB", "thp");

    private readonly Option<string?> _featureMask = new("--feature-mask")
    {
        Description = "Virtio features that may be offered, 64 bits in hexadecimal",
        HelpName = "MASK",
    };

    private readonly Option<int> _iotlbSize = new("--iotlb-size")
    {
        Description = "Translations kept for a guest with an IOMMU: 1024 to 1048576",
        DefaultValueFactory = _ => DeviceIotlb.DefaultCapacity,
        HelpName = "N",
    };

    public Symbol[] Options => [_client, _forward, _cores, _queues, _poolSize, _pageSizes, _devices, _featureMask, _frameSize, _iotlbSize];

    /// <summary>A port for each name.</summary>
    /// <param name="run">The options.</param>
    /// <param name="names">Its name and its socket, or null for one that was inherited. Two that forward are each other's peers.</param>
    public PortRequest[] Requests(Invocation run, params (string Name, string? SocketPath)[] names)
    {
        int queues = run.Get(_queues);
        if (queues is < 1 or > 128)
        {
            throw new UsageException($"--queues {queues}: 1 to 128 pairs");
        }

        int frameSize = run.Get(_frameSize);
        if (frameSize is < Frame.MinLength or > Frame.MaxLength)
        {
            throw new UsageException($"--frame-size {frameSize}: {Frame.MinLength} to {Frame.MaxLength} bytes");
        }

        int iotlbSize = run.Get(_iotlbSize);
        if (iotlbSize is < NetPortOptions.MinIotlbSize or > NetPortOptions.MaxIotlbSize)
        {
            throw new UsageException($"--iotlb-size {iotlbSize}: {NetPortOptions.MinIotlbSize} to {NetPortOptions.MaxIotlbSize}");
        }

        ulong needed = (ulong)(names.Length * queues) * FrameBatch.Capacity * FrameBatch.BufferSize;
        ulong? size = run.Get(_poolSize);
        if (size < needed)
        {
            throw new UsageException($"--pool-size: {needed >> 20} MiB are needed for so many queues");
        }

        ForwardMode forward = run.Get(_forward);
        bool areConnected = names.Length == 2 && forward is ForwardMode.Io or ForwardMode.MacSwap;
        return [.. names.Select((port, i) => new PortRequest(port.Name)
        {
            // The daemon stands in another directory.
            SocketPath = port.SocketPath is null ? null : Path.GetFullPath(port.SocketPath),
            Client = run.Get(_client),
            Forward = forward,
            FrameSize = frameSize,
            Peer = areConnected ? names[1 - i].Name : null,
            Queues = queues,
            Cores = Cores(run.Get(_cores)),
            FeatureMask = FeatureMask(run.Get(_featureMask)),
            Devices = run.Get(_devices) ?? [],
            IotlbSize = iotlbSize,
            PoolSize = size / (ulong)names.Length,
            PageSizes = run.Get(_pageSizes)!.Names,
        })];
    }

    private static ulong FeatureMask(string? text)
    {
        if (text is null)
        {
            return ulong.MaxValue;
        }

        string digits = text.StartsWith("0x", StringComparison.OrdinalIgnoreCase) ? text[2..] : text;
        return ulong.TryParse(digits, NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out ulong bits)
            ? bits
            : throw new UsageException($"--feature-mask {text}: up to 16 hexadecimal digits");
    }

    private static int[] Cores(string? list)
    {
        var cores = new List<int>();
        foreach (string item in list?.Split(',') ?? [])
        {
            cores.Add(int.TryParse(item, NumberStyles.None, CultureInfo.InvariantCulture, out int number)
                ? number
                : throw new UsageException($"--cores {list}: numbers of processors with commas between"));
        }

        return [.. cores];
    }
}
