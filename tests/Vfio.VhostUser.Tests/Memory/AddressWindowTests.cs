namespace Vfio.VhostUser.Tests;

[TestClass]
public sealed class AddressWindowTests
{
    private const ulong Host = 0x7f00_0000_0000;

    [TestMethod]
    public void A_seeded_model_agrees()
    {
        int seed = Random.Shared.Next();
        Console.WriteLine($"seed {seed}");
        var random = new Random(seed);
        int[] answers = [0, 0];
        for (int i = 0; i < 200_000; i++)
        {
            ulong first = random.Next(2) == 0 ? unchecked((ulong)random.NextInt64() * 2) : (ulong)random.Next(3);
            ulong size = (ulong)random.NextInt64() >> random.Next(64);
            uint length = Math.Max(1, (uint)random.NextInt64(1L << 32) >> random.Next(32));
            // At and around both ends, inside, and anywhere.
            ulong address = unchecked(random.Next(4) switch
            {
                0 => first + (ulong)random.Next(-2, 3),
                1 => first + size - length + (ulong)random.Next(-2, 3),
                2 => first + ((ulong)random.NextInt64() % Math.Max(1, size)),
                _ => (ulong)random.NextInt64() * 2,
            });
            bool isInside = (UInt128)unchecked(address - first) + length <= size;

            bool answer = new AddressWindow(first, size, Host).TryTranslate(address, length, out HostAddress host);

            string what = $"{length} at 0x{address:x} in {size} at 0x{first:x}, seed {seed}";
            Assert.AreEqual(isInside, answer, what);
            // Outside, mispredicted execution must not get further than the window's start.
            Assert.AreEqual(isInside ? unchecked(Host + (address - first)) : Host, host.Value, what);
            answers[answer ? 1 : 0]++;
        }

        Assert.IsGreaterThan(10_000, answers.Min(), $"{answers[1]} were inside, {answers[0]} were not");
    }

    [TestMethod]
    [DataRow(0ul, 1u)]
    [DataRow(1ul, 1u)]
    [DataRow(ulong.MaxValue, uint.MaxValue)]
    public void One_of_nothing_holds_nothing(ulong address, uint length) =>
        Assert.IsFalse(default(AddressWindow).TryTranslate(address, length, out _));
}
