using System.Globalization;
using System.Text.Json.Nodes;
using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.VhostUser.Benchmarks;

/// <summary>tools/bench iotlb.</summary>
internal sealed class IotlbBenchmark(TimeSpan time, int rounds, Mapping[] mappings, string[] settings)
{
    private const int Tries = 4;

    private static readonly TimeSpan WarmUp = TimeSpan.FromSeconds(2);

    private static readonly (string Name, VirtioFeatures Features)[] Rings =
    [
        ("split", VirtioFeatures.Version1),
        ("packed", VirtioFeatures.Version1 | VirtioFeatures.RingPacked),
    ];

    private readonly Dictionary<(string Ring, Mapping Mapping, string State, bool Peer), List<double>> _figures = [];

    public int Run(string? json)
    {
        for (int round = 0; round < rounds; round++)
        {
            foreach ((string ring, VirtioFeatures features) in Rings)
            {
                foreach (Mapping mapping in mappings)
                {
                    Measure(ring, features, mapping, isPeer: true);
                    Measure(ring, features, mapping, isPeer: false);
                }
            }
        }

        var cells = new JsonArray();
        Console.Out.WriteLine($"{"mapping",-11} {"ring",-7} {"state",-5} {"DPDK Mpps",10} {"ours Mpps",10} {"ours/DPDK",10} {"of none",8}");
        foreach (string state in (string[])["near", "far"])
        {
            foreach ((string ring, _) in Rings)
            {
                foreach (Mapping mapping in mappings)
                {
                    if (Cell(ring, mapping, state) is { } cell)
                    {
                        cells.Add(cell);
                    }
                }
            }
        }

        if (json is not null)
        {
            File.WriteAllText(json, cells.ToJsonString() + "\n");
        }

        return cells.Count == 0 ? 1 : 0;
    }

    private static string Name(Mapping mapping) => mapping switch
    {
        Mapping.None => "none",
        Mapping.Static1G => "static-1G",
        Mapping.Static2M => "static-2M",
        Mapping.Static4K => "static-4K",
        Mapping.Dynamic => "dynamic",
        _ => "dynamic-32",
    };

    private JsonObject? Cell(string ring, Mapping mapping, string state)
    {
        double? Median(Mapping m, bool peer)
        {
            if (!_figures.TryGetValue((ring, m, state, peer), out List<double>? figures))
            {
                return null;
            }

            figures.Sort();
            return figures[figures.Count / 2];
        }

        double? theirs = Median(mapping, true);
        double? ours = Median(mapping, false);
        double? none = Median(Mapping.None, false);
        if (theirs is null || ours is null)
        {
            return null;
        }

        double? overNone = none is null ? null : ours / none;
        Console.Out.WriteLine(string.Create(CultureInfo.InvariantCulture,
            $"{Name(mapping),-11} {ring,-7} {state,-5} {theirs,10:F4} {ours,10:F4} {ours / theirs,10:F2} {overNone,8:F3}"));
        return new JsonObject
        {
            ["mapping"] = Name(mapping),
            ["ring"] = ring,
            ["state"] = state,
            ["peer_mpps"] = theirs,
            ["ours_mpps"] = ours,
            ["ours_over_peer"] = ours / theirs,
            ["over_no_iommu"] = overNone,
        };
    }

    private void Measure(string ring, VirtioFeatures features, Mapping mapping, bool isPeer)
    {
        for (int attempt = 0; attempt < Tries; attempt++)
        {
            string before = CoreLatency.State();
            double figure = Once(features, mapping, isPeer, out long misses);
            string after = CoreLatency.State();
            Console.Error.WriteLine(string.Create(CultureInfo.InvariantCulture,
                $"{Name(mapping)} {ring} {(isPeer ? "DPDK" : "ours")}: {figure:F4} Mpps, {misses} misses, {before} then {after}"));
            if (before != after)
            {
                continue;
            }

            if (!_figures.TryGetValue((ring, mapping, before, isPeer), out List<double>? figures))
            {
                _figures[(ring, mapping, before, isPeer)] = figures = [];
            }

            figures.Add(figure);
            return;
        }
    }

    private double Once(VirtioFeatures features, Mapping mapping, bool isPeer, out long misses)
    {
        using var backend = new Backend(isPeer, settings);
        double figure = 0;
        long asked = 0;
        Exception? failure = null;
        var thread = new Thread(() =>
        {
            try
            {
                new Processor(0).PinCurrentThread();
                using var load = new LoadGenerator(backend.Socket, features, mapping);
                // Both sides' code is compiled for good, and the IOTLB warm.
                load.Run(WarmUp);
                figure = load.Run(time);
                load.Drain();
                asked = load.Misses;
            }
            catch (Exception e) when (e is InvalidOperationException or LinuxException or VhostUserProtocolException)
            {
                failure = e;
            }
        });
        thread.Start();
        thread.Join();
        misses = asked;
        return failure is null ? figure : throw new InvalidOperationException($"{Name(mapping)}, {(isPeer ? "DPDK" : "ours")}: {failure.Message}", failure);
    }
}
