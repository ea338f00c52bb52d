using System.Text;
using Vfio.Service;

namespace Vfio.Cli.Terminal;

/// <summary>A pool as a field of squares, each brighter the more of its pages are dirty.</summary>
internal static class HeatMap
{
    private const int Columns = 64;
    private const int Rows = 16;

    // From clean to all dirty: grey, then yellow to red.
    private static readonly string[] Colors =
        ["rgb(68,68,68)", "rgb(95,95,0)", "rgb(135,95,0)", "rgb(175,95,0)", "rgb(215,95,0)", "rgb(255,0,0)"];

    /// <summary>Draws the map and its legend.</summary>
    public static void Draw(DirtyInfo dirty, TextView view)
    {
        double[] shares = Shares(dirty, Columns * Rows, out ulong cellBytes);
        int cells = shares.Length;
        for (int row = 0; row * Columns < cells; row++)
        {
            var line = new StringBuilder();
            foreach (double share in shares.AsSpan(row * Columns, Math.Min(Columns, cells - (row * Columns))))
            {
                line.Append('[').Append(Colors[Level(share)]).Append("]■[/]");
            }

            view.Markup(line.ToString());
        }

        view.Line($"each square is {SizeText.Of(cellBytes)}; grey is clean, red is all dirty");
    }

    /// <summary>The colour of a share: the first is that of no page at all, and only of that; the last that of all.</summary>
    internal static int Level(double share) => share <= 0 ? 0 : 1 + (int)(share * (Colors.Length - 2));

    /// <summary>The dirty share of each cell.</summary>
    internal static double[] Shares(DirtyInfo dirty, int mostCells, out ulong cellBytes)
    {
        ulong pages = dirty.Size / dirty.PageSize;
        ulong pagesPerCell = Math.Max(1, (pages + (ulong)mostCells - 1) / (ulong)mostCells);
        cellBytes = pagesPerCell * dirty.PageSize;
        double[] shares = new double[(pages + pagesPerCell - 1) / pagesPerCell];
        foreach (DirtyRangeInfo range in dirty.Ranges)
        {
            ulong end = range.Offset + range.Length;
            for (ulong at = range.Offset; at < end;)
            {
                ulong cell = at / cellBytes;
                ulong stop = Math.Min(end, (cell + 1) * cellBytes);
                ulong inCell = Math.Min(cellBytes, dirty.Size - (cell * cellBytes));
                shares[cell] += (double)(stop - at) / inCell;
                at = stop;
            }
        }

        return shares;
    }
}
