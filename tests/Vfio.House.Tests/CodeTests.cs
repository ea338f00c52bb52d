using System.Text.RegularExpressions;

namespace Vfio.House.Tests;

/// <summary>Rules of the code that no analyzer knows.</summary>
[TestClass]
public sealed partial class CodeTests
{
    private static IEnumerable<string> Product => SourceTree.Sources("src");

    // This project quotes what it forbids.
    private static IEnumerable<string> Everything =>
        Product.Concat(SourceTree.Sources("tests")).Where(f => !f.StartsWith("tests/Vfio.House.Tests/", StringComparison.Ordinal));

    [TestMethod]
    public void Pinned_pointers_say_why_they_are_safe() =>
        AssertNone(Product.SelectMany(f => Uncommented(f, Fixed(), "SAFETY")));

    [TestMethod]
    public void Files_that_use_pointers_say_why_that_is_safe()
    {
        // Declarations of foreign functions use none themselves.
        AssertNone(Product
            .Where(f => !f.Contains("/LibC/", StringComparison.Ordinal) && !f.Contains("/Uapi/", StringComparison.Ordinal))
            .Where(f => Pointer().IsMatch(SourceTree.ReadCode(f)) && !SourceTree.Read(f).Contains("SAFETY", StringComparison.Ordinal)));
    }

    [TestMethod]
    public void Barriers_say_what_they_pair_with()
    {
        // The file that names them is about nothing else.
        AssertNone(Product.Where(f => !f.EndsWith("/Barriers.cs", StringComparison.Ordinal))
            .SelectMany(f => Uncommented(f, Barrier(), "ORDER:")));
    }

    [TestMethod]
    public void Files_that_use_volatile_accesses_say_what_they_pair_with()
    {
        AssertNone(Product
            .Where(f => !f.EndsWith("/Barriers.cs", StringComparison.Ordinal))
            .Where(f => VolatileAccess().IsMatch(SourceTree.ReadCode(f)) && !SourceTree.Read(f).Contains("ORDER:", StringComparison.Ordinal)));
    }

    [TestMethod]
    public void No_exception_is_swallowed() => AssertNone(Matches(Everything, EmptyCatch()));

    [TestMethod]
    public void Nothing_is_put_off() =>
        AssertNone(Everything.Where(f => PutOff().IsMatch(SourceTree.Read(f))));

    [TestMethod]
    public void Tests_neither_sleep_nor_skip() =>
        AssertNone(Matches(Everything.Where(f => f.StartsWith("tests/", StringComparison.Ordinal)), SleepOrSkip()));

    [TestMethod]
    public void Rules_catch_what_they_are_for()
    {
        Assert.IsTrue(EmptyCatch().IsMatch("catch (IOException e) when (e.HResult == 1)\n{\n   \n}"));
        Assert.IsFalse(EmptyCatch().IsMatch("catch\n{\n throw;\n}"));
        Assert.IsTrue(Barrier().IsMatch("Barriers.StoreLoadFence();"));
        Assert.IsTrue(Barrier().IsMatch("Interlocked.MemoryBarrierProcessWide();"));
        Assert.IsFalse(Barrier().IsMatch("Interlocked.Increment(ref x);"));
        Assert.IsTrue(Pointer().IsMatch("var p = (vfio_irq_set*)buffer;"));
        Assert.IsFalse(Pointer().IsMatch("int x = (a) * (b);"));
        Assert.IsTrue(SleepOrSkip().IsMatch("Thread.Sleep(1)"));
    }

    // Lines that match and have the word neither in the comment right above them nor within three lines of code.
    private static IEnumerable<string> Uncommented(string file, Regex pattern, string word)
    {
        string[] code = SourceTree.ReadCode(file).Split('\n');
        string[] lines = SourceTree.Read(file).Split('\n');
        for (int i = 0; i < code.Length; i++)
        {
            if (pattern.IsMatch(code[i]) && !IsCommented(lines, i, word))
            {
                yield return $"{file}:{i + 1}: no {word} near: {lines[i].Trim()}";
            }
        }
    }

    private static bool IsCommented(string[] lines, int at, string word)
    {
        int left = 3;
        for (int i = at; i >= 0; i--)
        {
            if (lines[i].Contains(word, StringComparison.Ordinal))
            {
                return true;
            }

            if (i < at && !SourceTree.IsComment(lines[i]) && --left < 0)
            {
                return false;
            }
        }

        return false;
    }

    private static IEnumerable<string> Matches(IEnumerable<string> files, Regex pattern) => files.SelectMany(f =>
    {
        string code = SourceTree.ReadCode(f);
        return pattern.Matches(code).Select(m => $"{f}:{code[..m.Index].Count(c => c == '\n') + 1}");
    });

    private static void AssertNone(IEnumerable<string> findings)
    {
        string[] all = [.. findings];
        Assert.IsEmpty(all, string.Join('\n', all));
    }

    [GeneratedRegex(@"\bfixed\s*\(")]
    private static partial Regex Fixed();

    // A cast to a pointer, or a pinned one.
    [GeneratedRegex(@"\(\w+\*+\)|\bfixed\s*\(")]
    private static partial Regex Pointer();

    [GeneratedRegex(@"\bBarriers\.\w|\bInterlocked\.MemoryBarrier|\bVolatile\.(Read|Write)Barrier")]
    private static partial Regex Barrier();

    [GeneratedRegex(@"\bVolatile\.(Read|Write)\b")]
    private static partial Regex VolatileAccess();

    [GeneratedRegex(@"\bcatch\b(\s*\([^)]*\))?(\s*when\s*\([^{]*\))?\s*\{\s*\}")]
    private static partial Regex EmptyCatch();

    [GeneratedRegex(@"\b(TODO|FIXME|XXX|HACK)\b")]
    private static partial Regex PutOff();

    [GeneratedRegex(@"\bThread\.Sleep\b|\bTask\.Delay\b|\[Ignore|\bAssert\.Inconclusive\b")]
    private static partial Regex SleepOrSkip();
}
