using Vfio.Testing.VhostUser;
using Vfio.VhostUser;
using Vfio.Virtio;

namespace Vfio.Service.Tests;

[TestClass]
public sealed class RevocationTests
{
    public TestContext TestContext { get; set; } = null!;

    // VFIOPIN_STRESS_ROUNDS makes it longer.
    [TestMethod]
    [DataRow(VirtioFeatures.Version1, 8)]
    [DataRow(VirtioFeatures.Version1 | VirtioFeatures.RingPacked, 1)]
    public void No_memory_and_no_ring_is_touched_after_it_was_taken_away(VirtioFeatures features, int pagesOfFrame)
    {
        int seed = Environment.TickCount;
        TestContext.WriteLine($"seed {seed}");
        long rounds = long.Parse(
            Environment.GetEnvironmentVariable("VFIOPIN_STRESS_ROUNDS") ?? "300", System.Globalization.CultureInfo.InvariantCulture);
        using var stress = new RevocationStress(features, pagesOfFrame, seed);
        Assert.AreEqual(rounds, stress.TakeAway(rounds));
        TestContext.WriteLine($"{stress.Sent} sent, {stress.Received} received, {stress.Occupied} places guarded, {stress.Counters}");
        Assert.IsGreaterThan(rounds / 5, stress.Occupied, "something else came to lie where memory was taken away");
        Assert.AreEqual(0, stress.Counters.AccessFailures);
    }

    // tools/bench revoke does the same a million times and more.
    [TestMethod]
    [DataRow(VirtioFeatures.Version1, 1)]
    [DataRow(VirtioFeatures.Version1 | VirtioFeatures.RingPacked, 8)]
    public void No_page_is_touched_after_its_invalidation_was_acknowledged(VirtioFeatures features, int pagesOfFrame)
    {
        int seed = Environment.TickCount;
        TestContext.WriteLine($"seed {seed}");
        using var stress = new RevocationStress(features, pagesOfFrame, seed);
        Assert.AreEqual(3000, stress.Run(3000));
        IotlbCounters counters = stress.Counters;
        TestContext.WriteLine($"{stress.Sent} sent, {stress.Received} received, {counters}");
        Assert.IsGreaterThan(500, stress.Received, "there was no load");
        Assert.IsGreaterThan(1000, counters.Invalidated, "nothing was revoked that the back-end knew");
        Assert.IsGreaterThan(0, counters.Misses);
    }
}
