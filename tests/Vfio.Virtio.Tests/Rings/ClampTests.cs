namespace Vfio.Virtio.Tests;

[TestClass]
public sealed class ClampTests
{
    private static readonly uint[] Edges = [0, 1, 2, 3, 255, 256, 32767, 32768, 65535, 65536, int.MaxValue - 1, int.MaxValue];

    [TestMethod]
    public void What_is_below_the_bound_stays_and_what_is_not_becomes_zero()
    {
        foreach (uint bound in Edges.Where(b => b != 0))
        {
            foreach (uint index in Edges.Append(bound - 1).Append(Math.Min(bound, int.MaxValue - 1u) + 1))
            {
                Assert.AreEqual(index < bound ? index : 0, Clamp.Index(index, bound), $"{index} of {bound}");
            }
        }
    }

    [TestMethod]
    public void Every_index_of_a_ring_stays()
    {
        for (uint index = 0; index < 65536; index++)
        {
            Assert.AreEqual(index, Clamp.Index(index, 65536));
            Assert.AreEqual(0u, Clamp.Index(index + 32768, 32768));
        }
    }
}
