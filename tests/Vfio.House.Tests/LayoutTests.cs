using System.Text.RegularExpressions;
using System.Xml.Linq;

namespace Vfio.House.Tests;

/// <summary>What is where, and what may depend on what.</summary>
[TestClass]
public sealed partial class LayoutTests
{
    private static readonly string[] Chain = ["Vfio.Linux", "Vfio", "Vfio.Virtio", "Vfio.VhostUser", "Vfio.Service", "Vfio.Cli"];

    private static readonly string[] TopLevel =
    [
        ".ci", ".editorconfig", ".git", ".gitattributes", ".gitignore", "Directory.Build.props", "Directory.Packages.props", "LICENSE",
        "README.md", "Vfio.sln", "artifacts", "docs", "native", "src", "tests", "tools",
    ];

    // Several small types of one protocol, each of a few lines; and what holds no type.
    private static readonly string[] Unnamed =
        ["AddressJsonConverters.cs", "AssemblyAttributes.cs", "BlockRecords.cs", "CardRecords.cs", "Payloads.cs", "Program.cs"];

    [TestMethod]
    public void Projects_refer_to_the_one_before_them_in_the_chain_and_to_no_other()
    {
        CollectionAssert.AreEquivalent(Chain, Directory.GetDirectories(Path.Combine(SourceTree.Root, "src")).Select(Path.GetFileName).ToArray());
        for (int i = 0; i < Chain.Length; i++)
        {
            XDocument project = XDocument.Parse(SourceTree.Read($"src/{Chain[i]}/{Chain[i]}.csproj"));
            string[] references = [.. project.Descendants("ProjectReference").Select(r => Path.GetFileNameWithoutExtension(r.Attribute("Include")!.Value))];
            CollectionAssert.AreEqual(i == 0 ? [] : (string[])[Chain[i - 1]], references, Chain[i]);
        }
    }

    [TestMethod]
    public void Calls_into_libc_are_declared_in_the_lowest_project_only()
    {
        string[] outside = [.. Chain.Skip(1).SelectMany(p => SourceTree.Sources($"src/{p}"))
            .Where(f => Import().IsMatch(SourceTree.ReadCode(f)))];
        Assert.IsEmpty(outside, string.Join('\n', outside));
        Assert.IsTrue(SourceTree.Sources("src/Vfio.Linux").Any(f => Import().IsMatch(SourceTree.ReadCode(f))));
    }

    [TestMethod]
    public void Nothing_is_named_for_not_knowing_what_it_is()
    {
        string[] vague = [.. ((string[])["src", "tests", "tools", "native"])
            .Where(d => Directory.Exists(Path.Combine(SourceTree.Root, d)))
            .SelectMany(SourceTree.Files)
            .Where(f => f.Split('/').Any(part => Vague().IsMatch(part.Split('.')[0])))];
        Assert.IsEmpty(vague, string.Join('\n', vague));
        Assert.IsTrue(Vague().IsMatch("StringHelper"));
        Assert.IsFalse(Vague().IsMatch("Commonality"));
    }

    [TestMethod]
    public void Top_of_the_tree_holds_what_belongs_there()
    {
        string[] strays = [.. Directory.EnumerateFileSystemEntries(SourceTree.Root).Select(e => Path.GetFileName(e)).Except(TopLevel)];
        Assert.IsEmpty(strays, string.Join('\n', strays));
    }

    [TestMethod]
    public void Files_are_named_after_a_type_that_they_hold()
    {
        // Kernel and C library mirrors are named after their headers, assembly attributes after nothing.
        string[] wrong = [.. SourceTree.Sources("src")
            .Where(f => !f.Contains("/LibC/", StringComparison.Ordinal) && !f.Contains("/Uapi/", StringComparison.Ordinal))
            .Where(f => !Unnamed.Contains(Path.GetFileName(f)))
            .Where(f => !Regex.IsMatch(
                SourceTree.ReadCode(f),
                $@"\b(class|struct|interface|enum|record|delegate\s+\S+)\s+{Regex.Escape(Path.GetFileName(f).Split('.', '{')[0])}\b"))];
        Assert.IsEmpty(wrong, string.Join('\n', wrong));
    }

    [GeneratedRegex(@"\b(LibraryImport|DllImport)\b")]
    private static partial Regex Import();

    [GeneratedRegex("(^|[a-z])(Utils?|Utilit(y|ies)|Helpers?|Common|Managers?|Misc)$")]
    private static partial Regex Vague();
}
