using System.CommandLine;
using System.Diagnostics;
using Vfio.Linux;
using Vfio.Service;

namespace Vfio.Cli.Verbs;

/// <summary><c>vfiopin vhost-user-net</c>: a network back-end in the foreground, by the conventions for back-end programs of the
/// vhost-user specification. It hosts the same ports as the daemon.</summary>
internal sealed class VhostUserNetVerb
{
    // A month: what a wait handle takes.
    private const double LongestWait = 24 * 3600 * 24;

    private readonly Option<string[]> _socketPath = new("--socket-path")
    {
        Description = "Where the front-end's socket is; twice for two machines back to back",
        HelpName = "PATH",
        Arity = ArgumentArity.OneOrMore,
    };

    private readonly Option<int?> _descriptor = new("--fd") { Description = "A connected socket that was inherited", HelpName = "FDNUM" };
    private readonly PortShape _shape = new();
    private readonly Option<double?> _statsInterval = new("--stats-interval") { Description = "Print rates so often", HelpName = "SECONDS" };
    private readonly Option<double?> _duration = new("--duration") { Description = "End after so long", HelpName = "SECONDS" };

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
                verb._socketPath, verb._descriptor, .. verb._shape.Options, verb._statsInterval, verb._duration, CapabilitiesOption.For("net"),
            ],
            verb.Run);
    }

    private int Run(Invocation run)
    {
        TimeSpan left = Seconds(run, _duration) ?? Timeout.InfiniteTimeSpan;
        TimeSpan? interval = Seconds(run, _statsInterval);
        (string, string?)[] names = Names(run);
        PortRequest[] requests = _shape.Requests(run, names);
        TextWriter log = TextWriter.Synchronized(run.Environment.Error);
        using Engine engine = run.Environment.NewEngine(log.WriteLine);
        var clock = Stopwatch.StartNew();
        using (FileDescriptor? inherited = run.Get(_descriptor) is { } number ? new FileDescriptor(LinuxKernel.Instance, number) : null)
        {
            var context = new OperationContext
            {
                Cancellation = run.Cancellation,
                Descriptors = inherited is null ? [] : [inherited],
            };
            foreach (PortRequest request in requests)
            {
                PortOperations.Add.Run(engine, request, context);
            }
        }

        using var ended = CancellationTokenSource.CreateLinkedTokenSource(run.Cancellation);
        _ = engine.Net.Ended.ContinueWith(_ => ended.Cancel(), TaskScheduler.Default);
        WaitAndReport(run, engine, left, interval, ended.Token);
        Show(run, engine, () => NetReport.Totals(run.Environment.Out, engine.Net, clock.Elapsed));
        return engine.Net.Ports.Any(p => p.State == PortState.Failed) ? Vfiopin.Failed : Vfiopin.Done;
    }

    // JSON is what "port list" prints of the daemon's ports.
    private static void Show(Invocation run, Engine engine, Action text)
    {
        if (run.Json)
        {
            run.Show(PortOperations.List.Run(engine, NoParameters.Instance, new OperationContext()), static json => json.PortInfoArray, static (_, _) => { });
        }
        else
        {
            text();
        }
    }

    private static void WaitAndReport(Invocation run, Engine engine, TimeSpan duration, TimeSpan? interval, CancellationToken ended)
    {
        var rates = new NetReport(run.Environment.Out, engine.Net);
        var clock = Stopwatch.StartNew();
        bool isEndless = duration == Timeout.InfiniteTimeSpan;
        while (isEndless || clock.Elapsed < duration)
        {
            TimeSpan left = isEndless ? Timeout.InfiniteTimeSpan : duration - clock.Elapsed;
            left = left < TimeSpan.Zero && !isEndless ? TimeSpan.Zero : left;
            bool isReport = interval is { } pause && (isEndless || pause < left);
            if (ended.WaitHandle.WaitOne(isReport ? interval!.Value : left))
            {
                return;
            }

            if (isReport)
            {
                Show(run, engine, rates.Show);
            }
        }
    }

    private static TimeSpan? Seconds(Invocation run, Option<double?> option) => run.Get(option) switch
    {
        null => null,
        > 0 and <= LongestWait and double seconds => TimeSpan.FromSeconds(seconds),
        double other => throw new UsageException($"{option.Name} {other}: more than 0 seconds, and at most {LongestWait}"),
    };

    private (string Name, string? SocketPath)[] Names(Invocation run)
    {
        string[] paths = run.Get(_socketPath) ?? [];
        int? descriptor = run.Get(_descriptor);
        if (paths.Length > 2 || (paths.Length == 0) == (descriptor is null))
        {
            throw new UsageException("give --socket-path once or twice, or --fd");
        }

        if (descriptor is < 0)
        {
            throw new UsageException($"--fd {descriptor}: the number of a descriptor");
        }

        if (descriptor is not null)
        {
            return [("fd", null)];
        }

        // The file's name is what a user knows the port by; where that is no name for a port, or both have it, a number does.
        bool areNames = paths.Select(Path.GetFileName).Distinct().Count() == paths.Length
            && paths.All(p => Path.GetFileName(p) is { Length: > 0 and <= 48 } file && file.All(c => char.IsAsciiLetterOrDigit(c) || c is '.' or '-' or '_'));
        return [.. paths.Select((p, i) => (areNames ? Path.GetFileName(p) : $"port{i}", (string?)p))];
    }
}
