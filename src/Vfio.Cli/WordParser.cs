using System.CommandLine.Parsing;

namespace Vfio.Cli;

/// <summary>Words on the command line that name the members of an enumeration.</summary>
internal static class WordParser
{
    /// <summary>Reads one, whatever its case. A number is none.</summary>
    public static T Parse<T>(ArgumentResult result)
        where T : struct, Enum
    {
        string word = result.Tokens[0].Value;
        if (Enum.TryParse(word, ignoreCase: true, out T value) && word.All(char.IsAsciiLetter))
        {
            return value;
        }

        string[] words = [.. Enum.GetNames<T>().Select(n => n.ToLowerInvariant())];
        string name = result.Parent is OptionResult option ? option.Option.Name : "the argument";
        result.AddError($"{name}: \"{word}\" is none of {string.Join(", ", words[..^1])} and {words[^1]}");
        return default;
    }
}
