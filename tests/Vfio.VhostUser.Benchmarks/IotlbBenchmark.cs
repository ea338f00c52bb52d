using System.Globalization;
using System.Text.Json.Nodes;
using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.VhostUser.Benchmarks;

/// <summary>tools/bench iotlb.</summary>
/// <param name="time">Of each cell in each round.</param>
/// <param name="rounds">Of all cells.</param>
/// <param name="mappings">The cells.</param>
/// <param name="peer">What it is held against: a setting of our own back-end, or DPDK's.</param>
/// <param name="watch">Tells in which state the processors are.</param>
internal sealed class IotlbBenchmark(TimeSpan time, int rounds, Mapping[] mappings, BackendKind peer, LatencyWatch watch)
{
    private static readonly (string Name, VirtioFeatures Features)[] Rings =
    [
        ("split", VirtioFeatures.Version1),
        ("packed", VirtioFeatures.Version1 | VirtioFeatures.RingPacked),
    ];

    private readonly Dictionary<(string Ring, Mapping Mapping, string State), List<Rates>> _turns = [];

    public int Run(string? json)
    {
        for (int round = 0; round < rounds; round++)
        {
            foreach ((string ring, VirtioFeatures features) in Rings)
            {
                foreach (Mapping mapping in mappings)
                {
                    Measure(ring, features, mapping);
                }
            }
        }

        var cells = new JsonArray();
        Console.Out.WriteLine($"{"mapping",-11} {"ring",-7} {"state",-5} {"peer Mpps",10} {"ours Mpps",10} {"ours/peer",10} {"of none",8} {"turns",6}");
        foreach (string state in (string[])["near", "far"])
        {
            foreach ((string ring, _) in Rings)
            {
                foreach (Mapping mapping in mappings)
                {
                    if (_turns.TryGetValue((ring, mapping, state), out List<Rates>? turns))
                    {
                        cells.Add(Cell(ring, mapping, state, turns));
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

    private static double Median(IEnumerable<double> values)
    {
        double[] sorted = [.. values.Order()];
        return sorted[sorted.Length / 2];
    }

    // The ratios are medians of ratios of turns that followed each other, not ratios of medians.
    private static JsonObject Cell(string ring, Mapping mapping, string state, List<Rates> turns)
    {
        double theirs = Median(turns.Select(t => t.Peer));
        double ours = Median(turns.Select(t => t.Ours));
        double overPeer = Median(turns.Select(t => t.Ours / t.Peer));
        double overNone = Median(turns.Select(t => t.Ours / t.None));
        Console.Out.WriteLine(string.Create(CultureInfo.InvariantCulture,
            $"{Name(mapping),-11} {ring,-7} {state,-5} {theirs,10:F4} {ours,10:F4} {overPeer,10:F2} {overNone,8:F3} {turns.Count,6}"));
        return new JsonObject
        {
            ["mapping"] = Name(mapping),
            ["ring"] = ring,
            ["state"] = state,
            ["peer_mpps"] = theirs,
            ["ours_mpps"] = ours,
            ["ours_over_peer"] = overPeer,
            ["over_no_iommu"] = overNone,
        };
    }

    private void Measure(string ring, VirtioFeatures features, Mapping mapping)
    {
        List<Turn[]> slices = [];
        string misses = string.Empty;
        Exception? failure = null;
        var thread = new Thread(() =>
        {
            var contestants = new List<Contestant>();
            try
            {
                new Processor(0).PinCurrentThread();
                contestants.Add(new Contestant(peer, features, mapping));
                contestants.Add(new Contestant(BackendKind.Ours, features, mapping));
                if (mapping != Mapping.None)
                {
                    contestants.Add(new Contestant(BackendKind.Ours, features, Mapping.None));
                }

                slices = Turns.Take(time, [.. contestants.Select<Contestant, Func<Turn>>(c => c.Run)]);
                misses = string.Join(", ", contestants.Select(c => $"{c.Kind} {c.Misses}"));
            }
            catch (Exception e) when (e is InvalidOperationException or LinuxException or VhostUserProtocolException)
            {
                failure = e;
            }
            finally
            {
                contestants.ForEach(c => c.Dispose());
            }
        });
        thread.Start();
        thread.Join();
        if (failure is not null)
        {
            throw new InvalidOperationException($"{Name(mapping)}, {ring}: {failure.Message}", failure);
        }

        int counted = 0;
        foreach (Turn[] turn in slices)
        {
            if (Turns.State(turn, watch) is { } state)
            {
                (string, Mapping, string) key = (ring, mapping, state);
                _turns.TryAdd(key, []);
                _turns[key].Add(new Rates(turn[0].Mpps, turn[1].Mpps, turn[^1].Mpps));
                counted++;
            }
        }

        Console.Error.WriteLine($"{Name(mapping)} {ring}: {counted} of {slices.Count} rounds of turns undisturbed and in one state; misses: {misses}");
    }

    // What followed each other: the peer, ours, and ours without an IOMMU (where that is the cell itself, the same as ours).
    private sealed record Rates(double Peer, double Ours, double None);
}
