using Vfio.Cli.Terminal;
using Vfio.Service;

namespace Vfio.Cli.Tests;

[TestClass]
public sealed class HeatMapTests
{
    private const ulong Page = 4096;

    // 10 pages in 4 cells of 3, the last of which has 1.
    [TestMethod]
    public void A_cell_has_the_share_of_its_own_dirty_pages()
    {
        DirtyInfo dirty = Dirty(10, (2, 2), (5, 3), (9, 1));
        double[] shares = HeatMap.Shares(dirty, mostCells: 4, out ulong cellBytes);
        Assert.AreEqual(3 * Page, cellBytes);
        CollectionAssert.AreEqual(new[] { 1 / 3.0, 2 / 3.0, 2 / 3.0, 1.0 }, shares);
    }

    [TestMethod]
    public void Grey_is_clean_and_red_is_all_dirty_and_what_lies_between_is_neither()
    {
        // A page a square.
        Assert.AreEqual("grey red red grey", Colors(Dirty(4, (1, 2))));
        // 16 pages a square: one of them, all but one, all.
        Assert.AreEqual("some most red grey", Colors(Dirty(16 * 1024, (0, 1), (16, 15), (32, 16))));
    }

    private static DirtyInfo Dirty(ulong pages, params (ulong First, ulong Count)[] ranges) => new(
        "demo", pages * Page, Page, 0, DirtyPrecision.Exact, "OwnRecord", 0, false, null,
        [.. ranges.Select(r => new DirtyRangeInfo(r.First * Page, r.Count * Page))]);

    private static string Colors(DirtyInfo dirty) => string.Join(' ', HeatMap.Shares(dirty, 64 * 16, out _).Take(4).Select(share => HeatMap.Level(share) switch
    {
        0 => "grey",
        1 => "some",
        4 => "most",
        5 => "red",
        _ => "other",
    }));
}
