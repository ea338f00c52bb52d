namespace Vfio.VhostUser.Benchmarks;

/// <summary>Several sides measured in turn on the same two processors, a fifth of a second each, so that all meet one state of the
/// machine.</summary>
internal static class Turns
{
    /// <summary>What a turn begins with and does not count: enough to have the caches filled again.</summary>
    public static readonly TimeSpan Settling = TimeSpan.FromMilliseconds(20);

    /// <summary>What is counted.</summary>
    public static readonly TimeSpan Slice = TimeSpan.FromMilliseconds(180);

    /// <summary>One turn of a side.</summary>
    /// <returns>When it began and ended (<see cref="LatencyWatch.Now"/>), and millions of frames a second.</returns>
    public delegate (double Begin, double End, double Mpps) Side();

    /// <summary>Lets all have their turns, over and over.</summary>
    /// <param name="time">For how long.</param>
    /// <param name="sides">Whose turns.</param>
    /// <returns>The turns that followed each other, in the order of the sides.</returns>
    public static List<(double Begin, double End, double Mpps)[]> Take(TimeSpan time, IReadOnlyList<Side> sides)
    {
        var turns = new List<(double Begin, double End, double Mpps)[]>();
        for (double end = LatencyWatch.Now + time.TotalSeconds; LatencyWatch.Now < end;)
        {
            turns.Add([.. sides.Select(side => side())]);
        }

        return turns;
    }
}
