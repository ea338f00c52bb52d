using System.Diagnostics;
using Vfio.Linux;

namespace Vfio.Litmus;

/// <summary>Runs rounds on two threads, each on its own processor: both begin each round together, within nanoseconds.</summary>
internal sealed class TwoThreads
{
    // How far apart the two begin, at most, in turns of an empty loop: the window of a store buffer moves about.
    private const int MaxSkew = 64;

    private readonly int[] _processors = ThreadAffinity.Get();
    private readonly SharedLines _leftLines = new();
    private readonly SharedLines _rightLines = new();
    private PaddedLong _left;
    private PaddedLong _right;
    private PaddedLong _end;

    /// <summary>Runs rounds until there were enough violations or the time is over.</summary>
    /// <param name="left">The left thread's part of a round.</param>
    /// <param name="right">The right thread's part.</param>
    /// <param name="judge">Runs on the left thread after each round, alone: true for a violation.</param>
    /// <param name="time">How long at most.</param>
    /// <param name="enough">Violations after which to stop.</param>
    public RaceCount Run(Action left, Action right, Func<bool> judge, TimeSpan time, long enough)
    {
        _left.Value = _right.Value = _end.Value = 0;
        var thread = new Thread(() => RunRight(right)) { Name = "litmus right", IsBackground = true };
        thread.Start();
        long rounds = 0;
        long violations = 0;
        var caller = new Thread(() => (rounds, violations) = RunLeft(left, judge, time, enough)) { Name = "litmus left" };
        caller.Start();
        caller.Join();
        thread.Join();
        return new RaceCount(rounds, violations);
    }

    private (long Rounds, long Violations) RunLeft(Action left, Func<bool> judge, TimeSpan time, long enough)
    {
        ThreadAffinity.Set(_processors[0]);
        long begin = Stopwatch.GetTimestamp();
        uint random = 1;
        long round = 0;
        long violations = 0;
        while (violations < enough && (round % 1024 != 0 || Stopwatch.GetElapsedTime(begin) < time))
        {
            round++;
            // ORDER: release: what was judged and prepared is before the round for the right thread.
            Volatile.Write(ref _left.Value, round);
            Skew(ref random);
            _leftLines.Write(round);
            left();
            _rightLines.Read();
            // ORDER: acquire: the right thread's part is over.
            while (Volatile.Read(ref _right.Value) != round)
            {
            }

            violations += judge() ? 1 : 0;
        }

        Volatile.Write(ref _end.Value, 1);
        return (round, violations);
    }

    private void RunRight(Action right)
    {
        ThreadAffinity.Set(_processors[1]);
        uint random = 2;
        for (long round = 1; ; round++)
        {
            // ORDER: acquire, pairs with the release above.
            while (Volatile.Read(ref _left.Value) != round)
            {
                if (Volatile.Read(ref _end.Value) != 0)
                {
                    return;
                }
            }

            Skew(ref random);
            _rightLines.Write(round);
            right();
            _leftLines.Read();
            // ORDER: release, pairs with the acquire above.
            Volatile.Write(ref _right.Value, round);
        }
    }

    private static void Skew(ref uint random)
    {
        unchecked
        {
            random = (random * 1664525) + 1013904223;
        }

        for (uint i = (random >> 16) % MaxSkew; i != 0; i--)
        {
        }
    }
}
