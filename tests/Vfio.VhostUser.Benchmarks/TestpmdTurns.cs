using System.Globalization;
using System.Net.Sockets;

namespace Vfio.VhostUser.Benchmarks;

/// <summary>What tools/bench vhost-net counts of one cell: several back-ends in turn, a fifth of a second each.</summary>
internal static class TestpmdTurns
{
    // Enough to have the caches filled again.
    private static readonly TimeSpan Settling = TimeSpan.FromMilliseconds(20);
    private static readonly TimeSpan Slice = TimeSpan.FromMilliseconds(180);

    /// <summary>Prints a line for each turn, <c>NAME TURN MPPS STATE</c>: turns of one number followed each other, and their state is
    /// "mixed" unless it was the same in all of them.</summary>
    /// <param name="time">How long.</param>
    /// <param name="counter">What is counted: a name in DPDK's answer to <c>/ethdev/stats</c>.</param>
    /// <param name="descriptions">The pairs, as <see cref="TestpmdPair"/> takes them.</param>
    /// <param name="watch">Tells in which state the processors are.</param>
    public static int Run(TimeSpan time, string counter, string[] descriptions, LatencyWatch watch)
    {
        var pairs = new List<TestpmdPair>();
        var turns = new List<(double Begin, double End, double Mpps)[]>();
        try
        {
            foreach (string description in descriptions)
            {
                pairs.Add(new TestpmdPair(description, counter));
            }

            for (double end = LatencyWatch.Now + time.TotalSeconds; LatencyWatch.Now < end;)
            {
                turns.Add([.. pairs.Select(p => p.Run(Settling, Slice))]);
            }
        }
        catch (Exception e) when (e is InvalidOperationException or SocketException)
        {
            Console.Error.WriteLine(e.Message);
            return 1;
        }
        finally
        {
            pairs.ForEach(p => p.Dispose());
        }

        for (int turn = 0; turn < turns.Count; turn++)
        {
            string state = watch.StateBetween(turns[turn][0].Begin, turns[turn][^1].End) ?? "mixed";
            for (int i = 0; i < pairs.Count; i++)
            {
                Console.Out.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{pairs[i].Name} {turn + 1} {turns[turn][i].Mpps:F4} {state}"));
            }
        }

        return 0;
    }
}
