using System.Diagnostics;
using System.Globalization;
using Vfio.Testing.VhostUser;
using Vfio.Virtio;

namespace Vfio.VhostUser.Benchmarks;

/// <summary>tools/bench revoke: how long a revocation takes under full load, and that no access follows it.</summary>
internal static class RevokeBenchmark
{
    private const int LongFrame = 8;

    private static readonly (string Name, VirtioFeatures Features)[] Rings =
        [("split", VirtioFeatures.Version1), ("packed", VirtioFeatures.Version1 | VirtioFeatures.RingPacked)];

    public static int Run(long count, string rings)
    {
        foreach ((string name, VirtioFeatures features) in Rings)
        {
            if (rings == name || rings == "both")
            {
                Run(name, features, LongFrame, count);
                Run(name, features, 1, count);
            }
        }

        return 0;
    }

    private static void Run(string ring, VirtioFeatures features, int pagesOfFrame, long count)
    {
        int seed = Environment.TickCount;
        using var stress = new RevocationStress(features, pagesOfFrame, seed);
        var latencies = new long[count];
        long begin = Stopwatch.GetTimestamp();
        long done = stress.Run(count, latencies);
        double seconds = Stopwatch.GetElapsedTime(begin).TotalSeconds;
        Array.Sort(latencies);
        double At(double part) => latencies[(int)((count - 1) * part)] * 1e6 / Stopwatch.Frequency;
        Console.Out.WriteLine(string.Create(CultureInfo.InvariantCulture,
            $"{ring,-7} {(pagesOfFrame == 1 ? "256 B" : "32 KiB"),-6} "
            + $"{done} revocations in {seconds:F1} s, violations 0, median {At(0.5):F1} us, p99 {At(0.99):F1} us, p99.9 {At(0.999):F1} us; "
            + $"{stress.Received / seconds / 1e6:F3} Mpps came round; {stress.Counters}; seed {seed}"));
    }

    // Without the grace period: must not survive.
    public static int RunBroken(long count)
    {
        using var stress = new RevocationStress(VirtioFeatures.Version1, LongFrame, Environment.TickCount, port => new ImpatientDevice(port));
        stress.Run(count);
        return 0;
    }
}
