using Vfio.Testing.VhostUser;
using Vfio.VhostUser;
using Vfio.Virtio;

namespace Vfio.Service.Tests;

[TestClass]
public sealed class RevocationTests
{
    public TestContext TestContext { get; set; } = null!;

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
