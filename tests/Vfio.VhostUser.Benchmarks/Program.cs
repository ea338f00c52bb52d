using System.Globalization;
using System.Runtime.InteropServices;
using Vfio.VhostUser.Benchmarks;

// .NET 10 leaves these to the system, which would end this process at once, and not what it started.
using var interrupt = PosixSignalRegistration.Create(PosixSignal.SIGINT, Exit);
using var terminate = PosixSignalRegistration.Create(PosixSignal.SIGTERM, Exit);

// What tools/bench iotlb, tools/bench revoke and tools/bench vhost-net run.
switch (args)
{
    case ["backend", string socket, string kind]:
        return Backend.Serve(socket, Enum.Parse<BackendKind>(kind));
    case ["iotlb", string seconds, string rounds, string json, string mappings, string peer, string latency]:
        using (var watch = new LatencyWatch(latency))
        {
            return new IotlbBenchmark(
                TimeSpan.FromSeconds(double.Parse(seconds, CultureInfo.InvariantCulture)),
                int.Parse(rounds, CultureInfo.InvariantCulture),
                [.. mappings.Split(',').Select(Parse<Mapping>)],
                Parse<BackendKind>(peer),
                watch).Run(json.Length == 0 ? null : json);
        }

    case ["turns", string seconds, string counter, string latency, .. string[] pairs]:
        using (var watch = new LatencyWatch(latency))
        {
            return TestpmdTurns.Run(TimeSpan.FromSeconds(double.Parse(seconds, CultureInfo.InvariantCulture)), counter, pairs, watch);
        }

    case ["revoke", string count, string rings]:
        return RevokeBenchmark.Run(long.Parse(count, CultureInfo.InvariantCulture), rings);
    case ["batches"]:
        BatchBenchmark.Run();
        return 0;
    case ["revoke-broken", string count]:
        return RevokeBenchmark.RunBroken(long.Parse(count, CultureInfo.InvariantCulture));
    default:
        Console.Error.WriteLine("run tools/bench iotlb, tools/bench revoke or tools/bench vhost-net");
        return 2;
}

static void Exit(PosixSignalContext context)
{
    context.Cancel = true;
    Environment.Exit(context.Signal == PosixSignal.SIGINT ? 130 : 143);
}

static T Parse<T>(string name)
    where T : struct, Enum => Enum.Parse<T>(name.Replace("-", string.Empty, StringComparison.Ordinal), ignoreCase: true);
