namespace Vfio.House.Tests;

[TestClass]
public sealed class ReadmeTests
{
    [TestMethod]
    public void The_program_in_the_readme_is_the_one_that_the_vm_runs()
    {
        string[] run = Body(SourceTree.Read("tests/Vfio.GuestTests/ReadFirstBlock.cs"), "    {\n        PciAddress", "\n    }\n}");
        string[] shown = Body(SourceTree.Read("README.md"), "using Vfio.Virtio;\n\nPciAddress", "\n```");
        Assert.IsGreaterThan(10, shown.Length);
        CollectionAssert.AreEqual(run, shown);
    }

    // Lines from the first statement on, without their indentation, with the console in place of the test's writer.
    private static string[] Body(string text, string begin, string end)
    {
        int start = text.IndexOf(begin, StringComparison.Ordinal) + begin.Length;
        string body = "PciAddress" + text[start..text.IndexOf(end, start, StringComparison.Ordinal)];
        return [.. body.Replace("output.WriteLine", "Console.WriteLine", StringComparison.Ordinal).Split('\n').Select(l => l.Trim())];
    }
}
