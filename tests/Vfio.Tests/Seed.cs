namespace Vfio.Tests;

/// <summary>Random numbers whose seed is printed with the test, and can be given back by VFIOPIN_SEED.</summary>
internal static class Seed
{
    public static Random Start(TestContext context)
    {
        string? given = Environment.GetEnvironmentVariable("VFIOPIN_SEED");
        int seed = given is null ? Environment.TickCount : int.Parse(given, System.Globalization.CultureInfo.InvariantCulture);
        context.WriteLine($"VFIOPIN_SEED={seed}");
        return new Random(seed);
    }
}
