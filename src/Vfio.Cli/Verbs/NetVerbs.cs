using System.CommandLine;
using System.Globalization;
using Vfio.Cli.Terminal;
using Vfio.Service;

namespace Vfio.Cli.Verbs;

/// <summary><c>vfiopin net info|forward</c>.</summary>
internal static class NetVerbs
{
    public static Command Build(VerbBuilder verbs) => verbs.Noun(
        "net",
        "virtio network cards, driven from user space by DMA over pinned memory; with a daemon or without",
        BuildInfo(verbs),
        BuildForward(verbs));

    private static Option<string?> PoolOption() => new("--pool")
    {
        Description = "The daemon's pool to use [default: one that the device reaches, else one made for the call]",
        HelpName = "NAME",
    };

    // A named pool is the daemon's; without one the work is done wherever it can be.
    private static IControl Control(Invocation run, string? pool) => pool is null ? run.DaemonOrLocal() : run.Daemon();

    private static Command BuildInfo(VerbBuilder verbs)
    {
        Argument<PciAddress> device = AddressParser.One();
        Option<string?> pool = PoolOption();
        return verbs.Verb("info", "Shows a card's address, limits and features", ["vfiopin net info 0000:01:00.0"], [device, pool], run =>
        {
            using IControl control = Control(run, run.Get(pool));
            CardInfo info = run.Call(control, CardOperations.Info, new CardQuery(run.Get(device)) { Pool = run.Get(pool) });
            run.Show(info, static json => json.CardInfo, (i, view) => view.List(
            [
                ("device", i.Device.ToString()),
                ("address", i.Mac ?? "-"),
                ("MTU", Text(i.Mtu)),
                ("link", i.LinkUp ? "up" : "down"),
                ("queues", string.Create(CultureInfo.InvariantCulture, $"{i.ReceiveQueueSize} entries to receive, {i.TransmitQueueSize} to send")),
                ("features", i.Features),
                ("network", i.NetFeatures),
            ]));
            return Vfiopin.Done;
        });
    }

    private static Command BuildForward(VerbBuilder verbs)
    {
        Argument<PciAddress> device = AddressParser.One();
        Option<string?> pool = PoolOption();
        var mode = new Option<CardMode>("--mode")
        {
            Description = "rxonly (take, check test frames, drop), txonly (send numbered test frames), io (send back), macswap, "
                + "echo (send test frames and check that they come back)",
            HelpName = "rxonly|txonly|io|macswap|echo",
            DefaultValueFactory = _ => CardMode.Io,
            CustomParser = WordParser.Parse<CardMode>,
        };
        var duration = new Option<double?>("--duration") { Description = "End after so long [default: at Ctrl-C]", HelpName = "SECONDS" };
        var count = new Option<long?>("--count") { Description = "End after so many frames", HelpName = "N" };
        var frameSize = new Option<int>("--frame-size") { Description = "Bytes of a test frame", HelpName = "N", DefaultValueFactory = _ => 64 };
        var queueSize = new Option<int>("--queue-size") { Description = "Entries of each queue at most, a power of two", HelpName = "N", DefaultValueFactory = _ => 256 };
        Option<ulong?> bufferSize = SizeParser.Option("--buffer-size", "Bytes of a buffer, a multiple of 64 [default: 2KiB]");
        Option<PageSizeList> pageSizes = PageSizeList.Option("Pages of a pool made for the call", "2MiB", "thp", "4KiB");
        return verbs.Verb(
            "forward",
            "Drives a card until Ctrl-C: takes frames, makes them, or sends them back",
            [
                "vfiopin net forward 0000:01:00.0 --mode echo --duration 5",
                "vfiopin net forward 0000:01:00.0 --mode txonly --count 100000 --frame-size 1500",
                "vfiopin net forward 0000:01:00.0 --mode macswap --pool demo",
            ],
            [device, mode, pool, duration, count, frameSize, queueSize, bufferSize, pageSizes],
            run =>
            {
                CardRequest request = new(run.Get(device))
                {
                    Pool = run.Get(pool),
                    Mode = run.Get(mode),
                    Duration = Positive(run.Get(duration)),
                    Count = run.Get(count) is <= 0 ? throw new UsageException("--count: 1 at least") : run.Get(count),
                    FrameSize = run.Get(frameSize) is int f and >= CardOperations.MinFrameSize and <= 65535
                        ? f : throw new UsageException($"--frame-size {run.Get(frameSize)}: {CardOperations.MinFrameSize} to 65535 bytes"),
                    QueueSize = run.Get(queueSize) is int q and >= 2 and <= 32768 && int.IsPow2(q)
                        ? q : throw new UsageException($"--queue-size {run.Get(queueSize)}: a power of two from 2 to 32768"),
                    BufferSize = run.Get(bufferSize) switch
                    {
                        null => 2048,
                        ulong b and >= 128 and <= 65536 when b % 64 == 0 => (int)b,
                        _ => throw new UsageException("--buffer-size: a multiple of 64 from 128 to 64KiB"),
                    },
                    PageSizes = run.Get(pageSizes)!.Names,
                };
                using IControl control = Control(run, request.Pool);
                CardResult result = run.Call(control, CardOperations.Forward, request);
                run.Show(result, static json => json.CardResult, ShowResult);
                return result.Check is { Wrong: > 0 } or { Missing: > 0 } ? Vfiopin.Failed : Vfiopin.Done;
            });
    }

    private static double? Positive(double? seconds) => seconds is null or (> 0 and < 1e8)
        ? seconds : throw new UsageException(string.Create(CultureInfo.InvariantCulture, $"--duration {seconds}: more than 0 seconds"));

    private static void ShowResult(CardResult result, TextView view)
    {
        var lines = new List<(string, string)>
        {
            ("card", $"{result.Card.Device}, {result.Card.Mac ?? "no address"}, {result.Card.Features}"),
            ("memory", result.Pool is null ? "a pool made for it" : $"pool {result.Pool}"),
            ("time", string.Create(CultureInfo.InvariantCulture, $"{result.Seconds:0.000} s, {result.Notifications} notifications")),
            ("received", Traffic(result.Received, result.Seconds)),
            ("sent", Traffic(result.Sent, result.Seconds)),
        };
        if (result.Runts != 0)
        {
            lines.Add(("too short", $"{Text(result.Runts)} frames, dropped"));
        }

        if (result.Unsent != 0)
        {
            lines.Add(("not sent", $"{Text(result.Unsent)} frames that the device still had"));
        }

        if (result.Check is { } check)
        {
            lines.Add(("test frames", string.Create(
                CultureInfo.InvariantCulture, $"{check.Good} good, {check.Wrong} wrong, {check.Missing} missing, {check.Other} other frames")));
        }

        view.List(lines);
    }

    private static string Traffic(CardTraffic traffic, double seconds) => string.Create(
        CultureInfo.InvariantCulture,
        $"{traffic.Frames} frames, {traffic.Bytes} bytes, {traffic.Frames / Math.Max(seconds, 1e-9) / 1e6:0.00} Mpps");

    private static string Text(long value) => value.ToString(CultureInfo.InvariantCulture);
}
