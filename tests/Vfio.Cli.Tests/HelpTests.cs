using System.CommandLine;

namespace Vfio.Cli.Tests;

[TestClass]
public sealed class HelpTests
{
    [TestMethod]
    public void Every_verb_has_help_with_an_example_that_parses_and_takes_json()
    {
        using var rig = new CliRig();
        var environment = new CliEnvironment { Out = TextWriter.Null, Error = TextWriter.Null };
        RootCommand root = Vfiopin.Build(environment, new CommonOptions(environment));
        int verbs = 0;
        foreach (string[] path in Verbs(root, []))
        {
            CliOutcome help = rig.Run([.. path, "--help"]);
            Assert.AreEqual(0, help.Code);
            Assert.AreEqual(string.Empty, help.Error);
            StringAssert.Contains(help.Output, "Example", StringComparison.Ordinal);
            StringAssert.Contains(help.Output, "-o, --output", StringComparison.Ordinal);
            StringAssert.Contains(help.Output, "  vfiopin " + string.Join(' ', path), StringComparison.Ordinal);
            foreach (string example in help.Output.Split('\n').Where(l => l.StartsWith("  vfiopin " + string.Join(' ', path), StringComparison.Ordinal) && !l.Contains('[', StringComparison.Ordinal)))
            {
                string[] words = example.Replace("vfiopin", string.Empty, StringComparison.Ordinal).Split(' ', StringSplitOptions.RemoveEmptyEntries);
                Assert.IsEmpty(root.Parse([.. words.TakeWhile(w => w is not ("&" or "|"))]).Errors, example);
            }

            verbs++;
        }

        Assert.IsGreaterThanOrEqualTo(20, verbs);
    }

    [TestMethod]
    [DataRow("2MiB", "pool", "create")]
    [DataRow("2MiB,thp", "port", "add")]
    [DataRow("2MiB,thp,4KiB", "net", "forward")]
    public void Help_names_the_pages_that_are_taken_where_none_are_named(string pages, params string[] verb)
    {
        using var rig = new CliRig();
        StringAssert.Contains(rig.Run([.. verb, "--help"]).Output, $"the first that can be had [default: {pages}]", StringComparison.Ordinal);
    }

    [TestMethod]
    [DataRow("")]
    [DataRow("nonsense")]
    [DataRow("pool")]
    [DataRow("pool create")]
    [DataRow("pool create demo --device 0000:00:05.0")]
    [DataRow("pool create demo --size 128MB --device 0000:00:05.0")]
    [DataRow("pool create demo --size 128MiB --device 5")]
    [DataRow("pool create demo --size 128MiB --device 0000:00:05.0 --page-size 3MiB")]
    [DataRow("pool create demo --size 128MiB --device 0000:00:05.0 --populate-threads 0")]
    [DataRow("pool create demo --size 128MiB --device 0000:00:05.0 --populate-threads 257")]
    [DataRow("pool create demo --size 128MiB --device 0000:00:05.0 --populate-threads two")]
    [DataRow("pool grow demo --by 1MiB --populate-threads -1")]
    [DataRow("pool list extra")]
    [DataRow("pool list -o yaml")]
    [DataRow("device bind")]
    [DataRow("device show 0000:00:99.0")]
    [DataRow("blk read")]
    [DataRow("blk read 0000:00:05.0 --offset -1")]
    [DataRow("blk write 0000:00:05.0")]
    [DataRow("blk write 0000:00:05.0 --in -")]
    [DataRow("net forward")]
    [DataRow("net info 0000:00:05.0 --mode io")]
    [DataRow("dirty export demo")]
    [DataRow("dirty export demo --out x --base --since 4d13de43-f644-472b-bcb1-ca5f24921e15")]
    [DataRow("daemon --group no-such-group-here")]
    [DataRow("attach demo")]
    [DataRow("port add")]
    [DataRow("port add vm0")]
    [DataRow("port add vm0 --socket-path /tmp/x --fd 3")]
    [DataRow("port add vm0 --fd -1")]
    [DataRow("port add vm0 --socket-path /tmp/x --forward 2")]
    [DataRow("port add vm0 --socket-path /tmp/x --queues 0")]
    [DataRow("port add vm0 --socket-path /tmp/x --cores 1-2")]
    [DataRow("port add vm0 --socket-path /tmp/x --device 5")]
    [DataRow("port add vm0 --socket-path /tmp/x --pool-size 1MiB")]
    [DataRow("port add vm0 --socket-path /tmp/x --iotlb-size 1023")]
    [DataRow("port add vm0 --socket-path /tmp/x --iotlb-size 1048577")]
    [DataRow("port show")]
    [DataRow("vhost-user-net")]
    [DataRow("vhost-user-net --socket-path a --socket-path b --socket-path c")]
    [DataRow("vhost-user-net --socket-path a --fd 3")]
    [DataRow("vhost-user-net --socket-path a --frame-size 13")]
    [DataRow("vhost-user-net --socket-path a --feature-mask xyz")]
    [DataRow("vhost-user-net --socket-path a --iotlb-size 0")]
    [DataRow("vhost-user-net --socket-path a --page-size 3MiB")]
    [DataRow("vhost-user-net --socket-path a --duration 0")]
    [DataRow("vhost-user-net --socket-path a --stats-interval -1")]
    [DataRow("vhost-user-net --socket-path a --duration NaN")]
    public void What_makes_no_sense_is_exit_code_2_and_goes_to_standard_error(string? line)
    {
        using var rig = new CliRig();
        CliOutcome outcome = rig.Run((line ?? string.Empty).Split(' ', StringSplitOptions.RemoveEmptyEntries));
        Assert.AreEqual(2, outcome.Code, outcome.Error);
        Assert.AreEqual(string.Empty, outcome.Output);
        StringAssert.StartsWith(outcome.Error, "vfiopin: ", StringComparison.Ordinal);
    }

    [TestMethod]
    [DataRow("4096", 4096ul)]
    [DataRow("0", 0ul)]
    [DataRow("1KiB", 1024ul)]
    [DataRow("128MiB", 134217728ul)]
    [DataRow("1GiB", 1073741824ul)]
    [DataRow("16777215TiB", 18446742974197923840ul)]
    public void Sizes_are_read(string text, ulong bytes)
    {
        Assert.IsTrue(SizeParser.TryParse(text, out ulong size));
        Assert.AreEqual(bytes, size);
    }

    [TestMethod]
    [DataRow("")]
    [DataRow("MiB")]
    [DataRow("-1")]
    [DataRow("+1")]
    [DataRow(" 1")]
    [DataRow("1 MiB")]
    [DataRow("1.5GiB")]
    [DataRow("128MB")]
    [DataRow("128M")]
    [DataRow("128mib")]
    [DataRow("0x1000")]
    [DataRow("1e3")]
    [DataRow("16777216TiB")]
    [DataRow("18446744073709551616")]
    public void What_is_no_size_is_refused(string text) => Assert.IsFalse(SizeParser.TryParse(text, out _));

    private static IEnumerable<string[]> Verbs(Command command, string[] path)
    {
        if (command.Subcommands.Count == 0)
        {
            return [path];
        }

        return command.Subcommands.SelectMany(c => Verbs(c, [.. path, c.Name]));
    }
}
