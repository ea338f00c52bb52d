using System.Diagnostics;
using System.Globalization;

namespace Vfio.Benchmarks;

/// <summary>Medians in nanoseconds.</summary>
internal static class Measure
{
    public static double Nanoseconds(long ticks) => ticks * 1e9 / Stopwatch.Frequency;

    public static double Median(double[] values)
    {
        Array.Sort(values);
        return values[values.Length / 2];
    }

    /// <summary>The median time of one of <paramref name="operations"/> that each run of <paramref name="step"/> does.</summary>
    public static double MedianOf(int runs, int operations, Action step)
    {
        step();
        double[] values = new double[runs];
        for (int i = 0; i < runs; i++)
        {
            long begin = Stopwatch.GetTimestamp();
            step();
            values[i] = Nanoseconds(Stopwatch.GetTimestamp() - begin) / operations;
        }

        return Median(values);
    }

    public static void Print(string line) => Console.Out.WriteLine(line);

    public static string Text(double value) => value.ToString("F0", CultureInfo.InvariantCulture);
}
