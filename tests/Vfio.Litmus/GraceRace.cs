using System.Diagnostics;
using Vfio.Linux;

namespace Vfio.Litmus;

/// <summary>A reader follows a published pointer in batches; the other thread publishes another, waits, and poisons the first. A
/// reader that meets the poison was let through too early: in the real thing it reads unmapped memory.</summary>
internal static class GraceRace
{
    // Looks at the pointer's target in a batch: as long as it takes the other thread to poison it, and longer.
    private const int Looks = 100;

    public static RaceCount Run<TGrace>(TGrace grace, TimeSpan time, long enough)
        where TGrace : struct, IGrace
    {
        int[] processors = ThreadAffinity.Get();
        var current = new Cell();
        var lines = new SharedLines();
        long violations = 0;
        bool stop = false;
        var reader = new Thread(() =>
        {
            ThreadAffinity.Set(processors[1]);
            grace.Enter();
            while (!Volatile.Read(ref stop))
            {
                if (Batch(ref current))
                {
                    Interlocked.Increment(ref violations);
                }

                grace.Pass(lines);
            }

            grace.Leave();
        })
        { Name = "litmus reader" };
        long rounds = 0;
        var revoker = new Thread(() =>
        {
            ThreadAffinity.Set(processors[0]);
            Cell next = new();
            long begin = Stopwatch.GetTimestamp();
            while (Interlocked.Read(ref violations) < enough
                && (rounds % 1024 != 0 || Stopwatch.GetElapsedTime(begin) < time))
            {
                rounds++;
                Cell old = current;
                next.IsGone.Value = 0;
                // ORDER: release: not poisoned, then published.
                Volatile.Write(ref current, next);
                grace.Wait();
                // ORDER: release: poisoned once nobody can hold it, which is what is tried here.
                Volatile.Write(ref old.IsGone.Value, 1);
                next = old;
                // The poison stays for a while, so that a reader that still looks sees it.
                for (int i = 0; i < 20; i++)
                {
                    lines.Read();
                }
            }

            Volatile.Write(ref stop, true);
        })
        { Name = "litmus revoker" };
        reader.Start();
        revoker.Start();
        revoker.Join();
        reader.Join();
        return new RaceCount(rounds, violations);
    }

    private static bool Batch(ref Cell current)
    {
        // ORDER: acquire: what is pointed at, as it was when published. Nothing orders it after the reader's store: that is the race.
        Cell cell = Volatile.Read(ref current);
        long met = 0;
        for (int i = 0; i < Looks; i++)
        {
            met |= Volatile.Read(ref cell.IsGone.Value);
        }

        return met != 0;
    }

    private sealed class Cell
    {
        public PaddedLong IsGone;
    }
}
