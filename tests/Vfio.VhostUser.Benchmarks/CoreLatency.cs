using System.Diagnostics;
using System.Runtime.InteropServices;
using Vfio.Linux;

namespace Vfio.VhostUser.Benchmarks;

/// <summary>How far processor 1 is from processor 0. On a virtual machine the host moves them apart and together again, and all
/// figures of rings with them: only those of one state compare.</summary>
internal static class CoreLatency
{
    private const int Trips = 20000;
    private const double NearNanoseconds = 60;

    /// <summary>"near" where the two share a cache, else "far".</summary>
    public static string State() => Measure() < NearNanoseconds ? "near" : "far";

    /// <summary>One way, in nanoseconds: the median of five rounds of ping-pong.</summary>
    public static double Measure()
    {
        double[] samples = [.. Enumerable.Range(0, 5).Select(_ => Round())];
        Array.Sort(samples);
        return samples[2];
    }

    private static double Round()
    {
        var ball = new Ball();
        var other = new Thread(() =>
        {
            new Processor(1).PinCurrentThread();
            Volatile.Write(ref ball.Value, 0);
            for (int i = 0; i < Trips; i++)
            {
                // ORDER: one line, back and forth.
                while (Volatile.Read(ref ball.Value) != (2 * i) + 1)
                {
                }

                Volatile.Write(ref ball.Value, (2 * i) + 2);
            }
        });
        double nanoseconds = 0;
        var one = new Thread(() =>
        {
            new Processor(0).PinCurrentThread();
            while (Volatile.Read(ref ball.Value) != 0)
            {
                Thread.Yield();
            }

            long begin = Stopwatch.GetTimestamp();
            for (int i = 0; i < Trips; i++)
            {
                Volatile.Write(ref ball.Value, (2 * i) + 1);
                while (Volatile.Read(ref ball.Value) != (2 * i) + 2)
                {
                }
            }

            nanoseconds = Stopwatch.GetElapsedTime(begin).TotalNanoseconds / (2.0 * Trips);
        });
        other.Start();
        one.Start();
        one.Join();
        other.Join();
        return nanoseconds;
    }

    [StructLayout(LayoutKind.Sequential, Size = 256)]
    private sealed class Ball
    {
        public long Before0, Before1, Before2, Before3, Before4, Before5, Before6, Before7;
        public int Value = -1;
    }
}
