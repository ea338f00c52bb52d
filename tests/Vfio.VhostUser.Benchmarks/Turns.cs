using System.Diagnostics;

namespace Vfio.VhostUser.Benchmarks;

/// <summary>Several sides measured in turn on the same two processors, a fifth of a second each, so that all meet one state of the
/// machine.</summary>
internal static class Turns
{
    /// <summary>What a turn begins with and does not count: enough to have the caches filled again.</summary>
    public static readonly TimeSpan Settling = TimeSpan.FromMilliseconds(20);

    /// <summary>What is counted.</summary>
    public static readonly TimeSpan Slice = TimeSpan.FromMilliseconds(180);

    // The latency's own measurement, and whoever gives the turns, take two or three per cent.
    private const double LeastShare = 0.95;

    /// <summary>Lets all have their turns, over and over, each time in another order: who follows whom must not decide.</summary>
    /// <param name="time">For how long.</param>
    /// <param name="sides">Whose turns.</param>
    /// <returns>The turns that followed each other, in the order of the sides.</returns>
    public static List<Turn[]> Take(TimeSpan time, IReadOnlyList<Func<Turn>> sides)
    {
        var turns = new List<Turn[]>();
        var random = new Random(1);
        int[] order = [.. Enumerable.Range(0, sides.Count)];
        var taken = Stopwatch.StartNew();
        do
        {
            var turn = new Turn[sides.Count];
            random.Shuffle(order);
            foreach (int side in order)
            {
                turn[side] = sides[side]();
            }

            turns.Add(turn);
        }
        while (taken.Elapsed < time);

        return turns;
    }

    /// <summary>Whether turns that followed each other compare.</summary>
    /// <param name="turns">Those turns.</param>
    /// <param name="watch">Tells how far the processors were from each other.</param>
    /// <returns>One of <see cref="LatencyWatch.States"/> when it was so all the time; <see langword="null"/> when it changed, or when
    /// one of them was kept waiting for its processors.</returns>
    public static string? State(Turn[] turns, LatencyWatch watch) =>
        turns.All(turn => turn.Share >= LeastShare) ? watch.StateBetween(turns.Min(turn => turn.Begin), turns.Max(turn => turn.End)) : null;
}
