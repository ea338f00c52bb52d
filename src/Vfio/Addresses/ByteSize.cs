using System.Globalization;

namespace Vfio;

/// <summary>Sizes as people write them in messages: the largest binary unit that divides them evenly.</summary>
internal static class ByteSize
{
    public const ulong KiB = 1ul << 10;
    public const ulong MiB = 1ul << 20;
    public const ulong GiB = 1ul << 30;

    public static string Text(ulong bytes) => bytes switch
    {
        0 => "0 bytes",
        _ when bytes % GiB == 0 => (bytes / GiB).ToString(CultureInfo.InvariantCulture) + " GiB",
        _ when bytes % MiB == 0 => (bytes / MiB).ToString(CultureInfo.InvariantCulture) + " MiB",
        _ when bytes % KiB == 0 => (bytes / KiB).ToString(CultureInfo.InvariantCulture) + " KiB",
        _ => bytes.ToString(CultureInfo.InvariantCulture) + " bytes",
    };
}
