using System.ComponentModel;
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

    // Of our own back-end for a cell, at the same time: one start of a program is faster or slower than another.
    private const int Starts = 2;

    private readonly Dictionary<(string Ring, Mapping Mapping, string State), List<Rates>> _turns = [];

    public int Run(string? json)
    {
        for (int round = 0; round < rounds; round++)
        {
            foreach ((string ring, VirtioFeatures features) in Rings)
            {
                Exception? failure = null;
                var thread = new Thread(() =>
                {
                    try
                    {
                        new Processor(0).PinCurrentThread();
                        Measure(ring, features);
                    }
                    catch (Exception e) when (e is InvalidOperationException or LinuxException or VhostUserProtocolException or Win32Exception or IOException)
                    {
                        failure = e;
                    }
                });
                thread.Start();
                thread.Join();
                if (failure is not null)
                {
                    throw new InvalidOperationException($"{ring}: {failure.Message}", failure);
                }
            }
        }

        var cells = new JsonArray();
        Console.Out.WriteLine($"{"mapping",-11} {"ring",-7} {"state",-7} {"peer Mpps",10} {"ours Mpps",10} {"ours/peer",10} {"of none",8} {"turns",6}");
        foreach (string state in LatencyWatch.States)
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
            $"{Name(mapping),-11} {ring,-7} {state,-7} {theirs,10:F4} {ours,10:F4} {overPeer,10:F2} {overNone,8:F3} {turns.Count,6}"));
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

    private void Measure(string ring, VirtioFeatures features)
    {
        foreach (Mapping mapping in mappings)
        {
            using var all = new Contestants();
            Contestant theirs = all.Start(peer, features, mapping);
            var ours = new List<Contestant>();
            var none = new List<Contestant>();
            // In turn, so that neither are the older ones.
            for (int i = 0; i < Starts; i++)
            {
                ours.Add(all.Start(BackendKind.Ours, features, mapping));
                none.Add(mapping == Mapping.None ? ours[^1] : all.Start(BackendKind.Ours, features, Mapping.None));
            }

            Contestant[] sides = [theirs, .. ours, .. mapping == Mapping.None ? [] : none];
            List<Turn[]> slices = Turns.Take(time, [.. sides.Select<Contestant, Func<Turn>>(c => c.Run)]);
            int counted = 0;
            foreach (Turn[] turn in slices)
            {
                if (Turns.State(turn, watch) is { } state)
                {
                    (string, Mapping, string) key = (ring, mapping, state);
                    _turns.TryAdd(key, []);
                    _turns[key].Add(new Rates(
                        turn[0].Mpps, turn[1..(1 + Starts)].Average(t => t.Mpps), turn[^Starts..].Average(t => t.Mpps)));
                    counted++;
                }
            }

            Console.Error.WriteLine($"{Name(mapping)} {ring}: {counted} of {slices.Count} rounds of turns undisturbed and in one state; "
                + $"misses: {string.Join(", ", sides.Select(c => $"{c.Kind} {c.Misses}"))}");
        }
    }

    // What followed each other: the peer, ours, and ours without an IOMMU (where that is the cell itself, the same as ours).
    private sealed record Rates(double Peer, double Ours, double None);

    // All that were started, to be ended together.
    private sealed class Contestants : IDisposable
    {
        private readonly List<Contestant> _started = [];

        public Contestant Start(BackendKind kind, VirtioFeatures features, Mapping mapping)
        {
            _started.Add(new Contestant(kind, features, mapping));
            return _started[^1];
        }

        public void Dispose() => _started.ForEach(c => c.Dispose());
    }
}
