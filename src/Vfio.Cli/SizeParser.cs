using System.CommandLine;
using System.CommandLine.Parsing;
using System.Globalization;

namespace Vfio.Cli;

/// <summary>Sizes on the command line: a number of bytes, or one with KiB, MiB, GiB or TiB.</summary>
internal static class SizeParser
{
    private static readonly (string Suffix, ulong Factor)[] Units =
        [("KiB", 1ul << 10), ("MiB", 1ul << 20), ("GiB", 1ul << 30), ("TiB", 1ul << 40)];

    /// <summary>An option that takes a size.</summary>
    public static Option<ulong?> Option(string name, string description, bool required = false) => new(name)
    {
        Description = description,
        HelpName = "SIZE",
        Required = required,
        CustomParser = Parse,
    };

    /// <summary>Reads a size.</summary>
    public static bool TryParse(string text, out ulong size)
    {
        string digits = text;
        ulong factor = 1;
        foreach ((string suffix, ulong unit) in Units)
        {
            if (text.EndsWith(suffix, StringComparison.Ordinal))
            {
                digits = text[..^suffix.Length];
                factor = unit;
            }
        }

        bool good = ulong.TryParse(digits, NumberStyles.None, CultureInfo.InvariantCulture, out ulong count)
            && count <= ulong.MaxValue / factor;
        size = good ? count * factor : 0;
        return good;
    }

    private static ulong? Parse(ArgumentResult result)
    {
        string text = result.Tokens.Count == 1 ? result.Tokens[0].Value : string.Empty;
        if (TryParse(text, out ulong size))
        {
            return size;
        }

        string name = result.Parent is OptionResult option ? option.Option.Name : "the argument";
        result.AddError($"{name}: \"{text}\" is no size; sizes look like 128MiB, 2MiB, 1GiB or 4096 (units KiB, MiB, GiB, TiB)");
        return null;
    }
}
