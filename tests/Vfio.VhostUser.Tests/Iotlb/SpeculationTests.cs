namespace Vfio.VhostUser.Tests;

[TestClass]
public sealed class SpeculationTests
{
    private static readonly ulong[] Lasts = [0, 1, 2, 4095, 4096, uint.MaxValue, (1ul << 32) + 5, (1ul << 62) + 1, long.MaxValue];

    [TestMethod]
    public void What_is_in_range_stays_and_what_is_not_becomes_zero()
    {
        foreach (ulong last in Lasts)
        {
            ulong[] offsets =
            [
                .. Lasts, last - Math.Min(last, 1), last + 1, last + 2, unchecked(0 - last), 1ul << 63, (1ul << 63) + 1, (1ul << 63) + last,
                ulong.MaxValue - 1, ulong.MaxValue,
            ];
            foreach (ulong offset in offsets)
            {
                Assert.AreEqual(offset <= last ? offset : 0, Speculation.Clamp(offset, last), $"0x{offset:x} of 0x{last:x}");
            }
        }
    }

    [TestMethod]
    public void A_seeded_model_agrees()
    {
        int seed = Random.Shared.Next();
        Console.WriteLine($"seed {seed}");
        var random = new Random(seed);
        for (int i = 0; i < 100_000; i++)
        {
            ulong last = (ulong)random.NextInt64() >> random.Next(63);
            ulong offset = random.Next(2) == 0
                ? unchecked(last + (ulong)random.Next(-3, 4)) : unchecked((ulong)random.NextInt64() * 2) >> random.Next(64);
            Assert.AreEqual(offset <= last ? offset : 0, Speculation.Clamp(offset, last), $"0x{offset:x} of 0x{last:x}, seed {seed}");
        }
    }
}
