using System.Text.RegularExpressions;

namespace Vfio.House.Tests;

/// <summary>The tree that these tests were built from: the directory above them that holds the solution.</summary>
internal static partial class SourceTree
{
    public static string Root { get; } = FindRoot();

    /// <summary>C# files below a directory of the tree, as paths relative to the root.</summary>
    public static IEnumerable<string> Sources(string directory) => Files(directory).Where(f => f.EndsWith(".cs", StringComparison.Ordinal));

    /// <summary>Files below a directory of the tree, without what a build leaves there.</summary>
    public static IEnumerable<string> Files(string directory) => Directory
        .EnumerateFiles(Path.Combine(Root, directory), "*", SearchOption.AllDirectories)
        .Select(f => Path.GetRelativePath(Root, f))
        .Where(f => !f.Split('/').Any(part => part is "bin" or "obj" or "artifacts"))
        .Order(StringComparer.Ordinal);

    public static string Read(string path) => File.ReadAllText(Path.Combine(Root, path));

    /// <summary>A file with its comments and strings blanked out, line for line.</summary>
    public static string ReadCode(string path) => CommentOrString().Replace(
        Read(path), match => string.Concat(match.Value.Select(c => c == '\n' ? '\n' : ' ')));

    public static bool IsComment(string line) => line.TrimStart().StartsWith("//", StringComparison.Ordinal);

    private static string FindRoot()
    {
        DirectoryInfo? directory = new(AppContext.BaseDirectory);
        while (directory is not null && !File.Exists(Path.Combine(directory.FullName, "Vfio.sln")))
        {
            directory = directory.Parent;
        }

        return directory?.FullName ?? throw new InvalidOperationException($"no Vfio.sln above {AppContext.BaseDirectory}");
    }

    // Raw strings, verbatim strings, strings, characters, comments of both kinds: the first that begins wins.
    [GeneratedRegex("""
        \$*"{3}[\s\S]*?"{3} | \$?@"(?:[^"]|"")*" | "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])+' | //[^\n]* | /\*[\s\S]*?\*/
        """, RegexOptions.IgnorePatternWhitespace)]
    private static partial Regex CommentOrString();
}
