using System.Text.Json;
using Vfio.Service;
using Vfio.Testing;
using Vfio.Virtio;

namespace Vfio.Cli.Tests;

[TestClass]
public sealed class NetVerbTests : IDisposable
{
    private const string Card = "0000:00:06.0";

    private static readonly string[] Create = ["pool", "create", "demo", "--size", "4MiB", "--page-size", "4KiB", "--device", Card];

    private readonly CliRig _rig = new();
    private readonly SimVirtioNet _card;

    public NetVerbTests() => _card = _rig.Host.Add(new SimVirtioNet(PciAddress.Parse(Card)), 6);

    public void Dispose()
    {
        _rig.StopDaemon();
        _rig.Host.Kernel.AssertNoFaults();
        _rig.Host.Kernel.AssertNothingLeft();
        _rig.Dispose();
    }

    [TestMethod]
    [DataRow(false)]
    [DataRow(true)]
    public void Frames_that_come_back_are_counted_good(bool daemon)
    {
        if (daemon)
        {
            _rig.WithDaemon();
        }

        _card.Options.IsLoop = true;
        JsonElement result = Forward("echo", "--count", "1000", "--frame-size", "1514");
        Assert.AreEqual((1000, 0, 0, 0), Check(result));
        Assert.AreEqual(1000, result.GetProperty("sent").GetProperty("frames").GetInt32());
        Assert.AreEqual(1514_000, result.GetProperty("received").GetProperty("bytes").GetInt32());
        Assert.AreEqual(0, result.GetProperty("unsent").GetInt32());
        StringAssert.Contains(result.GetProperty("card").GetProperty("features").GetString(), "AccessPlatform", StringComparison.Ordinal);
        Assert.AreEqual("52:54:12:00:00:01", result.GetProperty("card").GetProperty("mac").GetString());
        Assert.AreEqual(JsonValueKind.Null, result.GetProperty("pool").ValueKind);
        Assert.IsEmpty(_rig.Host.Kernel.Mappings);
        Assert.AreEqual(0, _card.Status, "reset");
    }

    [TestMethod]
    public void Frames_that_are_changed_or_lost_on_the_way_are_told_and_are_exit_code_1()
    {
        int seen = 0;
        _card.Options.IsLoop = true;
        _card.Options.OnWire = frame =>
        {
            seen++;
            frame[^1] ^= (byte)(seen == 100 ? 1 : 0);
            return seen == 200 ? null : frame;
        };
        CliOutcome outcome = _rig.Run("net", "forward", Card, "--mode", "echo", "--count", "1000", "-o", "json");
        Assert.AreEqual(1, outcome.Code);
        using JsonDocument result = JsonDocument.Parse(outcome.Output);
        // The changed one never came as it was, so its number is missing too.
        Assert.AreEqual((998, 1, 2, 0), Check(result.RootElement));
    }

    [TestMethod]
    public void Frames_are_made_with_their_numbers()
    {
        Forward("txonly", "--count", "100", "--frame-size", "300");
        Assert.HasCount(100, _card.Sent);
        for (int i = 0; i < 100; i++)
        {
            byte[] frame = _card.Sent[i][NetHeader.Bytes..];
            Assert.HasCount(300, frame);
            Assert.AreEqual(NumberedFrames.Verdict.Good, NumberedFrames.Check(frame, out ulong number));
            Assert.AreEqual((ulong)i, number);
            frame[i + 30] ^= 0x10;
            Assert.AreEqual(NumberedFrames.Verdict.Wrong, NumberedFrames.Check(frame, out _));
        }
    }

    [TestMethod]
    public void Frames_that_come_in_are_checked()
    {
        byte[] first = Numbered(7);
        byte[] cut = Numbered(8)[..^1];
        byte[] next = Numbered(10);
        byte[] generated = Numbered(0)[..14].Concat(Enumerable.Range(14, 50).Select(i => (byte)i)).ToArray();
        byte[] other = new byte[60];
        byte[][] frames = [first, cut, next, first, generated, other];
        Array.ForEach(frames, _card.Deliver);
        CliOutcome outcome = _rig.Run("net", "forward", Card, "--mode", "rxonly", "--count", "6", "-o", "json");
        Assert.AreEqual(1, outcome.Code, outcome.Error);
        using JsonDocument result = JsonDocument.Parse(outcome.Output);
        Assert.AreEqual((3, 2, 2, 1), Check(result.RootElement));

        static byte[] Numbered(ulong number)
        {
            byte[] frame = new byte[64];
            NumberedFrames.Fill(frame, number, default);
            return frame;
        }
    }

    [TestMethod]
    [DataRow("io")]
    [DataRow("macswap")]
    public void Frames_are_sent_back(string mode)
    {
        byte[][] frames = [.. Enumerable.Range(0, 50).Select(i => Enumerable.Range(i, 60 + i).Select(b => (byte)b).ToArray())];
        Array.ForEach(frames, _card.Deliver);
        JsonElement result = Forward(mode!, "--count", "50");
        Assert.AreEqual(50, result.GetProperty("sent").GetProperty("frames").GetInt32());
        Assert.AreEqual(JsonValueKind.Null, result.GetProperty("check").ValueKind);
        for (int i = 0; i < 50; i++)
        {
            byte[] expected = mode == "io" ? frames[i] : [.. frames[i][6..12], .. frames[i][..6], .. frames[i][12..]];
            CollectionAssert.AreEqual(expected, _card.Sent[i][NetHeader.Bytes..]);
        }
    }

    [TestMethod]
    [DataRow(false)]
    [DataRow(true)]
    public void Interrupted_it_ends_and_tells_what_it_did(bool daemon)
    {
        if (daemon)
        {
            _rig.WithDaemon();
        }

        _card.Deliver(new byte[60]);
        using var interrupt = new CancellationTokenSource();
        Task<CliOutcome> run = Task.Run(() => _rig.Run(
            ["net", "forward", Card, "--mode", "io", "-o", "json"], new CliStreams { Cancellation = interrupt.Token }));
        Assert.IsTrue(SpinWait.SpinUntil(() => _card.SentCount == 1, TimeSpan.FromSeconds(60)));
        interrupt.Cancel();
        Assert.IsTrue(run.Wait(TimeSpan.FromSeconds(60)), "it did not end");
        Assert.AreEqual(0, run.Result.Code, run.Result.Error);
        using JsonDocument result = JsonDocument.Parse(run.Result.Output);
        Assert.AreEqual(1, result.RootElement.GetProperty("sent").GetProperty("frames").GetInt32());
    }

    [TestMethod]
    public void With_a_pool_its_record_is_exact_and_everything_is_given_back()
    {
        _rig.WithDaemon();
        _rig.RunJson(Create);
        _card.Options.IsLoop = true;
        JsonElement result = Forward("echo", "--count", "10", "--pool", "demo", "--queue-size", "32");
        Assert.AreEqual("demo", result.GetProperty("pool").GetString());
        JsonElement dirty = _rig.RunJson("dirty", "show", "demo");
        Assert.AreEqual("Exact", dirty.GetProperty("precision").GetString());
        Assert.AreEqual(0, dirty.GetProperty("inFlightPages").GetInt32());
        // The rings, and the buffers that frames were in; not all 128.
        Assert.IsInRange(2, 15, dirty.GetProperty("dirtyPages").GetInt32());
        Assert.AreEqual(0, _rig.RunJson("pool", "show", "demo").GetProperty("bytesInUse").GetInt32());
    }

    [TestMethod]
    public void What_a_card_is_like_is_shown_as_text_and_json()
    {
        CliOutcome outcome = _rig.Run("net", "info", Card);
        Assert.AreEqual(0, outcome.Code, outcome.Error);
        StringAssert.Contains(outcome.Output, "52:54:12:00:00:01", StringComparison.Ordinal);
        StringAssert.Contains(outcome.Output, "256 entries to receive, 256 to send", StringComparison.Ordinal);
        JsonElement info = _rig.RunJson("net", "info", Card);
        Assert.AreEqual(1500, info.GetProperty("mtu").GetInt32());
        Assert.IsTrue(info.GetProperty("linkUp").GetBoolean());
    }

    [TestMethod]
    public void Totals_are_shown_as_text()
    {
        _card.Options.IsLoop = true;
        CliOutcome outcome = _rig.Run("net", "forward", Card, "--mode", "echo", "--count", "3");
        Assert.AreEqual(0, outcome.Code, outcome.Error);
        StringAssert.Contains(outcome.Output, "3 frames, 192 bytes", StringComparison.Ordinal);
        StringAssert.Contains(outcome.Output, "3 good, 0 wrong, 0 missing, 0 other frames", StringComparison.Ordinal);
    }

    [TestMethod]
    public void What_cannot_be_is_said_alike_in_both_modes()
    {
        string[] large = ["net", "forward", Card, "--mode", "txonly", "--count", "1", "--frame-size", "1515"];
        string local = _rig.RunFailing(large);
        StringAssert.Contains(local, "the card's MTU and the buffers allow 1514", StringComparison.Ordinal);
        string wrongDevice = _rig.RunFailing("net", "info", CliRig.Device);
        StringAssert.Contains(wrongDevice, "is no virtio network device", StringComparison.Ordinal);
        _rig.WithDaemon();
        Assert.AreEqual(local, _rig.RunFailing(large));
        Assert.AreEqual(wrongDevice, _rig.RunFailing("net", "info", CliRig.Device));
    }

    [TestMethod]
    public void A_card_that_breaks_the_rules_is_named()
    {
        _card.Options.IsLoop = true;
        _card.Options.BuffersOf = _ => 9;
        string error = _rig.RunFailing("net", "forward", Card, "--mode", "echo", "--count", "3");
        StringAssert.Contains(error, "virtio 0000:00:06.0: it received a frame in 9 buffers", StringComparison.Ordinal);
    }

    [TestMethod]
    [DataRow("--mode", "nonsense")]
    [DataRow("--duration", "0")]
    [DataRow("--duration", "-1")]
    [DataRow("--count", "0")]
    [DataRow("--mode", "7")]
    [DataRow("--mode", "loop")]
    [DataRow("--frame-size", "10")]
    [DataRow("--frame-size", "65536")]
    [DataRow("--queue-size", "3")]
    [DataRow("--queue-size", "65536")]
    [DataRow("--buffer-size", "1000")]
    [DataRow("--buffer-size", "128KiB")]
    [DataRow("--page-size", "3MiB")]
    public void Options_that_make_no_sense_are_exit_code_2(string option, string value)
    {
        CliOutcome outcome = _rig.Run("net", "forward", Card, option, value);
        Assert.AreEqual(2, outcome.Code, outcome.Error);
        StringAssert.Contains(outcome.Error, option, StringComparison.Ordinal);
        Assert.AreEqual(string.Empty, outcome.Output);
    }

    private static (int Good, int Wrong, int Missing, int Other) Check(JsonElement result)
    {
        JsonElement check = result.GetProperty("check");
        return (check.GetProperty("good").GetInt32(), check.GetProperty("wrong").GetInt32(),
            check.GetProperty("missing").GetInt32(), check.GetProperty("other").GetInt32());
    }

    private JsonElement Forward(string mode, params string[] options) => _rig.RunJson(["net", "forward", Card, "--mode", mode, .. options]);
}
