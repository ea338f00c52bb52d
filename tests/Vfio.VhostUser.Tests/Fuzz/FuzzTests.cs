using System.Diagnostics;
using System.Globalization;
using Vfio.VhostUser.Tests.Session;

namespace Vfio.VhostUser.Tests.Fuzz;

/// <summary>Short runs; <c>tools/fuzz</c> makes them long. Each prints its seed, and takes one.</summary>
[TestClass]
public sealed class FuzzTests
{
    public required TestContext TestContext { get; init; }

    [TestMethod]
    public void Rings()
    {
        using var fuzzer = new RingFuzzer();
        long runs = Run(1000, fuzzer.RunOnce);
        TestContext.WriteLine($"rings: {runs} runs, {fuzzer.Polls} polls; ended: " +
            string.Join(", ", fuzzer.Errors.OrderBy(e => e.Key).Select(e => $"{e.Key} {e.Value}")) + "; " +
            string.Join(", ", fuzzer.Seen.OrderBy(e => e.Key, StringComparer.Ordinal).Select(e => $"{e.Key} {e.Value}")));
        // One that finds no fault in anything has looked at nothing.
        Assert.IsGreaterThan(3, fuzzer.Errors.Count);
        Assert.HasCount(6, fuzzer.Seen);
    }

    [TestMethod]
    public void Messages() => TestContext.WriteLine($"messages: {Run(200, MessageFuzzer.RunOnce)} sessions");

    [TestMethod]
    public void Iotlb() => TestContext.WriteLine($"IOTLB messages: {Run(50, IotlbMessageFuzzer.RunOnce)} sessions");

    private static long Run(int defaultRuns, Action<Random> runOnce)
    {
        string? given = Environment.GetEnvironmentVariable("VFIOPIN_FUZZ_SEED");
        int seed = given is null ? Random.Shared.Next() : int.Parse(given, CultureInfo.InvariantCulture);
        string? seconds = Environment.GetEnvironmentVariable("VFIOPIN_FUZZ_SECONDS");
        TimeSpan budget = TimeSpan.FromSeconds(double.Parse(seconds ?? "0", CultureInfo.InvariantCulture));
        Console.WriteLine($"seed {seed}");
        var random = new Random(seed);
        var clock = Stopwatch.StartNew();
        long runs = 0;
        while (seconds is null ? runs < defaultRuns : clock.Elapsed < budget)
        {
            runOnce(random);
            runs++;
        }

        Console.WriteLine($"{runs} runs in {clock.Elapsed.TotalSeconds:F0} s");
        return runs;
    }
}
