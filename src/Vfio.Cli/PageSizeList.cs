using System.CommandLine;
using System.CommandLine.Parsing;

namespace Vfio.Cli;

/// <summary>Sizes of pages on the command line, with commas between: in order of preference, the first that can be had is taken.</summary>
/// <param name="Names">1GiB, 2MiB, thp or 4KiB each.</param>
internal sealed record PageSizeList(IReadOnlyList<string> Names)
{
    /// <summary>The option <c>--page-size</c>.</summary>
    /// <param name="description">What the pages are for.</param>
    /// <param name="preferred">What is taken where nothing is said.</param>
    public static Option<PageSizeList> Option(string description, params IReadOnlyList<string> preferred) => new("--page-size")
    {
        Description = $"{description}: 1GiB, 2MiB, thp or 4KiB; of a list such as 1GiB,2MiB the first that can be had",
        HelpName = "LIST",
        Arity = ArgumentArity.ExactlyOne,
        DefaultValueFactory = _ => new PageSizeList(preferred),
        CustomParser = Parse,
    };

    /// <inheritdoc/>
    public override string ToString() => string.Join(',', Names);

    private static PageSizeList Parse(ArgumentResult result)
    {
        string[] names = result.Tokens[0].Value.Split(',');
        foreach (string name in names.Where(n => !MemoryBackings.TryParse(n, out _)))
        {
            result.AddError($"--page-size: \"{name}\" is none of 1GiB, 2MiB, thp and 4KiB");
        }

        return new PageSizeList(names);
    }
}
