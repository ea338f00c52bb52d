namespace Vfio.Litmus;

/// <summary>A race that is run until it is caught, or for a while.</summary>
/// <param name="Name">What is raced.</param>
/// <param name="Control">The same race without what makes it right, a fence or the announced epoch: must be caught, or the verdict on the real one is worth
/// nothing.</param>
/// <param name="Real">The race as the libraries run it.</param>
internal sealed record Litmus(string Name, Func<TimeSpan, long, RaceCount> Control, Func<TimeSpan, long, RaceCount> Real);

/// <summary>What a race came to.</summary>
/// <param name="Rounds">Times that it was run.</param>
/// <param name="Violations">Times that it ended in what must not be.</param>
internal readonly record struct RaceCount(long Rounds, long Violations)
{
    public static RaceCount operator +(RaceCount left, RaceCount right) =>
        new(left.Rounds + right.Rounds, left.Violations + right.Violations);
}

internal enum Verdict
{
    Pass = 0,
    Violation = 1,
    Inconclusive = 3,
}
