using System.Globalization;
using System.Net.Sockets;

namespace Vfio.VhostUser.Benchmarks;

/// <summary>What tools/bench vhost-net counts of one cell: several back-ends in turn, a fifth of a second each.</summary>
internal static class TestpmdTurns
{
    /// <summary>Prints a line for each turn, <c>NAME TURN MPPS STATE</c>: turns of one number followed each other, and their state is
    /// "mixed" unless it was the same in all of them and none was kept waiting for its processors.</summary>
    /// <param name="time">How long.</param>
    /// <param name="counter">What is counted: a name in DPDK's answer to <c>/ethdev/stats</c>.</param>
    /// <param name="descriptions">The pairs, as <see cref="TestpmdPair"/> takes them.</param>
    /// <param name="watch">Tells in which state the processors are.</param>
    public static int Run(TimeSpan time, string counter, string[] descriptions, LatencyWatch watch)
    {
        var pairs = new List<TestpmdPair>();
        try
        {
            foreach (string description in descriptions)
            {
                pairs.Add(new TestpmdPair(description, counter));
            }

            List<Turn[]> turns = Turns.Take(time, [.. pairs.Select<TestpmdPair, Func<Turn>>(p => p.Run)]);
            for (int turn = 0; turn < turns.Count; turn++)
            {
                string state = Turns.State(turns[turn], watch) ?? "mixed";
                for (int i = 0; i < pairs.Count; i++)
                {
                    Console.Out.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{pairs[i].Name} {turn + 1} {turns[turn][i].Mpps:F4} {state}"));
                }
            }

            return 0;
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
    }
}
