using System.CommandLine;
using System.Diagnostics;
using System.Globalization;
using Vfio.Linux;
using Vfio.Service;
using Vfio.VhostUser;
using Vfio.Virtio;

namespace Vfio.Cli.Verbs;

/// <summary><c>vfiopin vhost-user-net</c>: a network back-end in the foreground, by the conventions for back-end programs of the
/// vhost-user specification.</summary>
internal sealed class VhostUserNetVerb
{
    private readonly Option<string[]> _socketPath = new("--socket-path")
    {
        Description = "Where the front-end's socket is; twice for two machines back to back",
        HelpName = "PATH",
        Arity = ArgumentArity.OneOrMore,
    };

    private readonly Option<int?> _descriptor = new("--fd") { Description = "A connected socket that was inherited", HelpName = "FDNUM" };
    private readonly Option<bool> _client = new("--client") { Description = "Connect to the socket, and again when the front-end comes back" };

    private readonly Option<ForwardMode> _forward = new("--forward")
    {
        Description = "What to do with frames: rxonly (drop), txonly (generate), io (send on, or back), macswap",
        DefaultValueFactory = _ => ForwardMode.Io,
    };

    private readonly Option<string?> _cores = new("--cores") { Description = "Processors, a poller on each, such as 1 or 2,3", HelpName = "LIST" };
    private readonly Option<int> _queues = new("--queues") { Description = "Pairs of queues of each port", DefaultValueFactory = _ => 1 };
    private readonly Option<ulong?> _poolSize = SizeParser.Option("--pool-size", "Memory for frames; 4MiB for each pair of queues by default");
    private readonly Option<string?> _device = new("--device") { Description = "Pin the memory for this device", HelpName = "BDF" };
    private readonly Option<int> _frameSize = new("--frame-size") { Description = "Bytes of a generated frame", DefaultValueFactory = _ => 64 };
    private readonly Option<double?> _statsInterval = new("--stats-interval") { Description = "Print rates so often", HelpName = "SECONDS" };
    private readonly Option<double?> _duration = new("--duration") { Description = "End after so long", HelpName = "SECONDS" };
    private readonly Option<bool> _printCapabilities = new("--print-capabilities") { Description = "Print what this back-end can do as JSON, and end" };

    private readonly Option<string> _pageSize = new("--page-size")
    {
        Description = "Pages of that memory, in order of preference: 1GiB, 2MiB, thp, 4KiB",
        DefaultValueFactory = _ => "2MiB,thp",
        HelpName = "LIST",
    };

    private readonly Option<string?> _featureMask = new("--feature-mask")
    {
        Description = "Virtio features that may be offered, 64 bits in hexadecimal",
        HelpName = "MASK",
    };

    public static Command Build(VerbBuilder verbs)
    {
        var verb = new VhostUserNetVerb();
        return verbs.Verb(
            "vhost-user-net",
            "Serves a virtual machine's network card until Ctrl-C",
            [
                "vfiopin vhost-user-net --socket-path /run/vm0.sock --forward io --cores 1",
                "vfiopin vhost-user-net --socket-path /run/vm0.sock --socket-path /run/vm1.sock --forward io",
            ],
            [
                verb._socketPath, verb._descriptor, verb._client, verb._forward, verb._cores, verb._queues, verb._poolSize,
                verb._pageSize, verb._device, verb._featureMask, verb._frameSize, verb._statsInterval, verb._duration,
                verb._printCapabilities,
            ],
            verb.Run);
    }

    private int Run(Invocation run)
    {
        if (run.Get(_printCapabilities))
        {
            run.Environment.Out.WriteLine("{\"type\": \"net\"}");
            return Vfiopin.Done;
        }

        NetEngineOptions options = Options(run);
        using PinnedPool pool = NewPool(run, options);
        TextWriter log = TextWriter.Synchronized(run.Environment.Error);
        using var engine = new NetEngine(options, pool, log.WriteLine);
        var clock = Stopwatch.StartNew();
        engine.Start();
        using var ended = CancellationTokenSource.CreateLinkedTokenSource(run.Cancellation);
        if (run.Get(_descriptor) is not null)
        {
            _ = engine.Ended.ContinueWith(_ => ended.Cancel(), TaskScheduler.Default);
        }

        WaitAndReport(run, engine, ended.Token);
        NetReport.Totals(run.Environment.Out, engine, clock.Elapsed);
        return Vfiopin.Done;
    }

    private void WaitAndReport(Invocation run, NetEngine engine, CancellationToken ended)
    {
        TimeSpan left = run.Get(_duration) is { } seconds ? TimeSpan.FromSeconds(seconds) : Timeout.InfiniteTimeSpan;
        if (run.Get(_statsInterval) is not { } interval)
        {
            ended.WaitHandle.WaitOne(left);
            return;
        }

        var rates = new NetReport(run.Environment.Out, engine);
        var clock = Stopwatch.StartNew();
        while ((left == Timeout.InfiniteTimeSpan || clock.Elapsed < left)
            && !ended.WaitHandle.WaitOne(TimeSpan.FromSeconds(interval)))
        {
            rates.Show();
        }
    }

    private NetEngineOptions Options(Invocation run)
    {
        string[] paths = run.Get(_socketPath) ?? [];
        int? descriptor = run.Get(_descriptor);
        if (paths.Length > 2 || (paths.Length == 0) == (descriptor is null))
        {
            throw new UsageException("give --socket-path once or twice, or --fd");
        }

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

        var port = new NetPortOptions("fd")
        {
            Descriptor = descriptor,
            IsClient = run.Get(_client),
            QueuePairs = queues,
            FeatureMask = FeatureMask(run.Get(_featureMask)),
        };
        return new NetEngineOptions
        {
            Mode = run.Get(_forward),
            FrameSize = frameSize,
            Processors = Processors(run.Get(_cores)),
            Ports = descriptor is not null ? [port]
                : [.. paths.Select(p => port with { Name = Path.GetFileName(p), SocketPath = p })],
        };
    }

    private PinnedPool NewPool(Invocation run, NetEngineOptions options)
    {
        var backings = new List<MemoryBacking>();
        foreach (string name in run.Get(_pageSize)!.Split(','))
        {
            backings.Add(MemoryBackings.TryParse(name, out MemoryBacking backing)
                ? backing
                : throw new UsageException($"--page-size {name}: 1GiB, 2MiB, thp or 4KiB, with commas between"));
        }

        ulong needed = (ulong)options.Ports.Sum(p => p.QueuePairs) * FrameBatch.Capacity * FrameBatch.BufferSize;
        ulong page = backings.Max(b => b.PageSize());
        ulong size = run.Get(_poolSize) ?? needed;
        if (size < needed)
        {
            throw new UsageException($"--pool-size: {needed >> 20} MiB are needed for so many queues");
        }

        if (run.Get(_device) is { } device)
        {
            throw new UsageException($"--device {device}: not possible yet");
        }

        return PinnedPool.Create(
            new PinnedPoolOptions
            {
                Name = "vhost-user-net",
                Size = (size + page - 1) / page * page,
                Backings = backings,
                BufferSize = FrameBatch.BufferSize,
            },
            sysfs: run.Environment.Sysfs);
    }

    private static VirtioFeatures FeatureMask(string? text)
    {
        if (text is null)
        {
            return (VirtioFeatures)ulong.MaxValue;
        }

        string digits = text.StartsWith("0x", StringComparison.OrdinalIgnoreCase) ? text[2..] : text;
        return ulong.TryParse(digits, NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out ulong bits)
            ? (VirtioFeatures)bits
            : throw new UsageException($"--feature-mask {text}: up to 16 hexadecimal digits");
    }

    private static Processor[] Processors(string? list)
    {
        if (list is null)
        {
            return [];
        }

        var processors = new List<Processor>();
        foreach (string item in list.Split(','))
        {
            processors.Add(int.TryParse(item, NumberStyles.None, CultureInfo.InvariantCulture, out int number)
                ? new Processor(number)
                : throw new UsageException($"--cores {list}: numbers of processors with commas between"));
        }

        return [.. processors];
    }
}
