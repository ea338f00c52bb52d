namespace Vfio.Virtio.Tests;

/// <summary>Random work between a driver side and a device side, held against a model: every chain arrives once, whole, with the
/// right bytes, comes back once, and whoever sleeps is woken.</summary>
[TestClass]
public sealed class BothSidesTests
{
    private const int BufferBytes = 32;
    private static readonly int[] PackedSizes = [1, 3, 7, 64, 100];
    private static readonly int[] SplitSizes = [1, 2, 8, 64, 128];

    public TestContext TestContext { get; set; } = null!;

    public static IEnumerable<object[]> Combinations =>
        from features in RingPair.AllFeatures
        from size in features.HasFlag(VirtioFeatures.RingPacked) ? PackedSizes : SplitSizes
        select new object[] { (ulong)features, size };

    [TestMethod]
    [DynamicData(nameof(Combinations))]
    public void Random_work_arrives_whole_and_wakes_who_sleeps(ulong features, int size) =>
        Run((VirtioFeatures)features, size, steps: 6_000, Random.Shared.Next());

    [TestMethod]
    [DynamicData(nameof(Combinations))]
    public void The_same_over_pages_that_are_not_neighbours(ulong features, int size) =>
        // The parts of one of 1024 entries lie across pages; the others' are cut where they start only.
        Run((VirtioFeatures)features, size == 64 ? 1024 : size, steps: 6_000, Random.Shared.Next(), scattered: true);

    [TestMethod]
    public void Indices_wrap_at_65536()
    {
        foreach (VirtioFeatures features in RingPair.AllFeatures.Where(f => !f.HasFlag(VirtioFeatures.RingIndirectDesc)))
        {
            Run(features, features.HasFlag(VirtioFeatures.RingPacked) ? 13 : 16, steps: 0, Random.Shared.Next(), least: 66_000);
        }
    }

    private void Run(VirtioFeatures features, int size, int steps, int seed, int least = 0, bool scattered = false)
    {
        var random = new Random(seed);
        var use = (BufferUse)random.Next(3);
        TestContext.WriteLine($"seed {seed}, {features}, size {size}, {use}{(scattered ? ", scattered" : string.Empty)}");
        int maxChain = Math.Min(size, 5);
        using var pair = new RingPair(size, features, dataBytes: (size + 1) * maxChain * BufferBytes, scattered: scattered, use: use);
        // Translations that end in the middle of buffers and of table entries.
        pair.Translator.Data.Piece = random.Next(3) == 0 ? 24u : ulong.MaxValue;
        pair.Translator.Ring.Piece = random.Next(3) == 0 ? 40u : ulong.MaxValue;
        // Buffers that are looked for in the middle of a batch: each, none, or some.
        pair.Translator.Data.NotAtHandEach = random.Next(8);
        var model = new RingModel(pair, random, maxChain, BufferBytes);
        for (int step = 0; step < steps || model.Finished < least; step++)
        {
            switch (random.Next(8))
            {
                case 0 or 1:
                    model.DriverAdds();
                    break;
                case 2:
                    model.DriverPublishes();
                    break;
                case 3 or 4:
                    model.DeviceTakes();
                    break;
                case 5 or 6:
                    model.DeviceGivesBack();
                    break;
                default:
                    model.DriverReaps();
                    break;
            }
        }

        model.Drain();
    }
}
