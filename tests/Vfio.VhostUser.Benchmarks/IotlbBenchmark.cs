using System.Globalization;
using System.Text.Json.Nodes;
using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.VhostUser.Benchmarks;

/// <summary>tools/bench iotlb.</summary>
/// <param name="time">Of each run.</param>
/// <param name="rounds">Of all runs.</param>
/// <param name="mappings">The cells.</param>
/// <param name="peer">What it is held against: a setting of our own back-end, or DPDK's.</param>
/// <param name="watch">Tells in which state the processors are.</param>
internal sealed class IotlbBenchmark(TimeSpan time, int rounds, Mapping[] mappings, BackendKind peer, LatencyWatch watch)
{
    private static readonly TimeSpan WarmUp = TimeSpan.FromSeconds(2);

    // Short enough to lie between two moves of the host's.
    private static readonly TimeSpan Slice = TimeSpan.FromMilliseconds(200);

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
                    Measure(ring, features, mapping, peer);
                    Measure(ring, features, mapping, BackendKind.Ours);
                }
            }
        }

        var cells = new JsonArray();
        Console.Out.WriteLine($"{"mapping",-11} {"ring",-7} {"state",-5} {"peer Mpps",10} {"ours Mpps",10} {"ours/peer",10} {"of none",8} {"counts",9}");
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
        List<double> Figures(Mapping m, bool isPeer) => _figures.GetValueOrDefault((ring, m, state, isPeer)) ?? [];
        double? Median(Mapping m, bool isPeer)
        {
            List<double> figures = Figures(m, isPeer);
            figures.Sort();
            return figures.Count == 0 ? null : figures[figures.Count / 2];
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
            $"{Name(mapping),-11} {ring,-7} {state,-5} {theirs,10:F4} {ours,10:F4} {ours / theirs,10:F2} {overNone,8:F3} "
            + $"{$"{Figures(mapping, true).Count}+{Figures(mapping, false).Count}",9}"));
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

    private void Measure(string ring, VirtioFeatures features, Mapping mapping, BackendKind kind)
    {
        var slices = new List<(double Begin, double End, double Mpps)>();
        using var backend = new Backend(kind);
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
                for (double end = LatencyWatch.Now + time.TotalSeconds; LatencyWatch.Now < end;)
                {
                    slices.Add(load.Run(Slice));
                }

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
        if (failure is not null)
        {
            throw new InvalidOperationException($"{Name(mapping)}, {kind}: {failure.Message}", failure);
        }

        foreach ((double begin, double end, double mpps) in slices)
        {
            if (watch.StateBetween(begin, end) is { } state)
            {
                (string, Mapping, string, bool) key = (ring, mapping, state, kind != BackendKind.Ours);
                _figures.TryAdd(key, []);
                _figures[key].Add(mpps);
            }
        }

        Console.Error.WriteLine(string.Create(CultureInfo.InvariantCulture,
            $"{Name(mapping)} {ring} {kind}: {string.Join(' ', slices.Select(s => $"{s.Mpps:F3}{watch.StateBetween(s.Begin, s.End)?[..1] ?? "?"}"))} Mpps, {asked} misses"));
    }
}
