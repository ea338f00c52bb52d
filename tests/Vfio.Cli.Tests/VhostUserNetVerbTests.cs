using System.Text.Json;
using Vfio.Linux;
using Vfio.Testing.VhostUser;

namespace Vfio.Cli.Tests;

[TestClass]
public sealed class VhostUserNetVerbTests
{
    [TestMethod]
    public void Totals_are_printed_at_the_end_with_drops_by_cause()
    {
        using var rig = new CliRig();
        CliOutcome outcome = Serve(rig, [], path =>
        {
            using var guest = new PortGuest(path);
            Assert.IsTrue(guest.RoundTrip(1));
            // Back to a guest that offers no buffer.
            guest.Send(2);
            guest.Offer();
            guest.Receive();
            guest.Machine.Frontend.Enable(0, false);
            guest.Send(3);
            // Taken after it was dropped.
            guest.Send(4);
        });
        Assert.AreEqual(0, outcome.Code, outcome.Error);
        string[] lines = outcome.Output.TrimEnd('\n').Split('\n');
        StringAssert.Matches(lines[0], new System.Text.RegularExpressions.Regex(
            @"^\d+\.\d s, 1 sessions: \d+ messages, 0 refused, 0 accesses found shared memory gone$"));
        StringAssert.Matches(
            lines[1], new System.Text.RegularExpressions.Regex(@"^from guests: 4 frames, 800 bytes, 4 bursts, \d+ kicks, \d+ calls, 0 dropped$"));
        StringAssert.Matches(
            lines[2], new System.Text.RegularExpressions.Regex(@"^to guests: 2 frames, 400 bytes, 2 bursts, \d+ kicks, \d+ calls, [12] dropped$"));
        StringAssert.Matches(lines[3], new System.Text.RegularExpressions.Regex("^  [12] dropped: no buffer in time, or no guest$"));
        StringAssert.Contains(outcome.Error, "front-end connected", StringComparison.Ordinal);
    }

    [TestMethod]
    public void Two_sockets_are_two_machines_back_to_back()
    {
        using var rig = new CliRig();
        CliOutcome outcome = Serve(rig, ["--socket-path", rig.PathOf("vm1.sock")], path =>
        {
            using var first = new PortGuest(path);
            using var second = new PortGuest(rig.PathOf("vm1.sock"));
            second.Offer();
            first.Send(1);
            CollectionAssert.AreEqual(PortGuest.FrameOf(1), second.Receive());
        });
        Assert.AreEqual(0, outcome.Code, outcome.Error);
        StringAssert.Contains(outcome.Output, "s, 2 sessions: ", StringComparison.Ordinal);
    }

    [TestMethod]
    public void Totals_keep_what_was_refused_in_sessions_that_have_ended()
    {
        using var rig = new CliRig();
        CliOutcome outcome = Serve(rig, [], path =>
        {
            for (int session = 0; session < 2; session++)
            {
                using UnixSocket wrong = UnixSocket.TryConnect(path, out _)!;
                wrong.Send(new byte[12]);
                using var none = new ReceivedDescriptors();
                Assert.AreEqual(0, wrong.Receive(new byte[1], none));
            }

            using var guest = new PortGuest(path);
            Assert.IsTrue(guest.RoundTrip(1));
        });
        Assert.AreEqual(0, outcome.Code, outcome.Error);
        StringAssert.Contains(outcome.Output, " messages, 2 refused, 0 accesses found shared memory gone\n", StringComparison.Ordinal);
    }

    [TestMethod]
    public void Memory_is_pinned_for_a_device_until_the_end()
    {
        using var rig = new CliRig();
        CliOutcome outcome = Serve(rig, ["--device", CliRig.Device], path =>
        {
            Assert.HasCount(1, rig.Host.Kernel.Mappings);
            using var guest = new PortGuest(path);
            Assert.IsTrue(guest.RoundTrip(1));
        });
        Assert.AreEqual(0, outcome.Code, outcome.Error);
        rig.Host.Kernel.AssertNothingLeft();
        StringAssert.Contains(
            rig.RunFailing("vhost-user-net", "--socket-path", rig.PathOf("x"), "--device", "0000:00:1f.0"),
            "there is no PCI device at this address", StringComparison.Ordinal);
        Assert.IsFalse(File.Exists(rig.PathOf("x")));
    }

    [TestMethod]
    public void It_ends_with_the_connection_that_it_was_started_with()
    {
        using var rig = new CliRig();
        (UnixSocket ours, UnixSocket theirs) = UnixSocket.Pair();
        FileDescriptor inherited = theirs.Descriptor.Duplicate();
        theirs.Dispose();
        CliOutcome? outcome = null;
        var program = new Thread(() => outcome = rig.Run(
            "vhost-user-net", "--fd", inherited.Number.ToString(System.Globalization.CultureInfo.InvariantCulture), "--page-size", "4KiB"));
        program.Start();
        using (var guest = new PortGuest(ours))
        {
            Assert.IsTrue(guest.RoundTrip(1));
        }

        program.Join();
        inherited.SetHandleAsInvalid();
        Assert.AreEqual(0, outcome!.Code, outcome.Error);
        StringAssert.Contains(outcome.Output, "from guests: 1 frames", StringComparison.Ordinal);
        StringAssert.Contains(rig.RunFailing("vhost-user-net", "--fd", "1000000", "--page-size", "4KiB"),
            "EBADF (9): descriptor 1000000. Cause: this process has no such descriptor. Cure: ", StringComparison.Ordinal);
    }

    [TestMethod]
    public void It_ends_by_itself_after_a_duration_and_prints_rates_until_then()
    {
        using var rig = new CliRig();
        CliOutcome outcome = rig.Run(
            "vhost-user-net", "--socket-path", rig.PathOf("vm0.sock"), "--page-size", "4KiB", "--duration", "0.25", "--stats-interval", "0.1");
        Assert.AreEqual(0, outcome.Code, outcome.Error);
        StringAssert.StartsWith(outcome.Output, "from guests 0.00 Mpps, to guests 0.00 Mpps\n", StringComparison.Ordinal);
        StringAssert.Contains(outcome.Output, "to guests: 0 frames, 0 bytes, 0 bursts, 0 kicks, 0 calls, 0 dropped\n", StringComparison.Ordinal);
        // The same for a program: its ports, as often as it was said and at the end.
        JsonElement ports = rig.RunJson(
            "vhost-user-net", "--socket-path", rig.PathOf("vm0.sock"), "--page-size", "4KiB", "--duration", "0.1");
        Assert.AreEqual("vm0.sock", ports[0].GetProperty("name").GetString());
        Assert.AreEqual(0, ports[0].GetProperty("toGuest").GetProperty("frames").GetInt64());
        // A pause longer than the whole.
        Assert.AreEqual(0, rig.Run(
            "vhost-user-net", "--socket-path", rig.PathOf("vm0.sock"), "--page-size", "4KiB", "--duration", "0.1", "--stats-interval", "80000").Code);
        Assert.IsFalse(File.Exists(rig.PathOf("vm0.sock")));
    }

    [TestMethod]
    [DataRow("")]
    [DataRow("--socket-path a --fd 3")]
    [DataRow("--socket-path a --nonsense")]
    [DataRow("--forward bogus")]
    public void Capabilities_are_printed_whatever_else_is_said(string? rest)
    {
        using var rig = new CliRig();
        CliOutcome outcome = rig.Run(["vhost-user-net", "--print-capabilities", .. (rest ?? string.Empty).Split(' ', StringSplitOptions.RemoveEmptyEntries)]);
        Assert.AreEqual(0, outcome.Code, outcome.Error);
        using var document = System.Text.Json.JsonDocument.Parse(outcome.Output);
        Assert.AreEqual("net", document.RootElement.GetProperty("type").GetString());
        Assert.AreEqual(0, document.RootElement.GetProperty("features").GetArrayLength());
    }

    // The front-end's part runs while the program does, which is then interrupted.
    private static CliOutcome Serve(CliRig rig, string[] rest, Action<string> front)
    {
        using var interrupt = new CancellationTokenSource();
        string path = rig.PathOf("vm0.sock");
        CliOutcome? outcome = null;
        var program = new Thread(() => outcome = rig.Run(
            ["vhost-user-net", "--socket-path", path, "--page-size", "4KiB", .. rest], new CliStreams { Cancellation = interrupt.Token }));
        program.Start();
        try
        {
            string last = rest is ["--socket-path", string other] ? other : path;
            PortGuest.Until(() => File.Exists(last) || outcome is not null, "it does not listen");
            Assert.IsNull(outcome?.Error);
            front(path);
        }
        finally
        {
            interrupt.Cancel();
            program.Join();
        }

        return outcome!;
    }
}
