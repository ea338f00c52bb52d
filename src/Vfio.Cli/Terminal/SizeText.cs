using System.Globalization;

namespace Vfio.Cli.Terminal;

/// <summary>Sizes for people.</summary>
internal static class SizeText
{
    private static readonly string[] Units = ["bytes", "KiB", "MiB", "GiB", "TiB"];

    /// <summary>A size with at most one digit after the point: <c>128 MiB</c>, <c>1.5 GiB</c>, <c>512 bytes</c>.</summary>
    public static string Of(ulong bytes)
    {
        double value = bytes;
        int unit = 0;
        while (value >= 1024 && unit < Units.Length - 1)
        {
            value /= 1024;
            unit++;
        }

        return string.Create(CultureInfo.InvariantCulture, $"{value:0.#} {Units[unit]}");
    }
}
