using System.CommandLine;
using System.Globalization;
using Vfio.Cli.Terminal;
using Vfio.Service;

namespace Vfio.Cli.Verbs;

/// <summary><c>vfiopin blk info|read|write</c>.</summary>
internal static class BlkVerbs
{
    public static Command Build(VerbBuilder verbs) => verbs.Noun(
        "blk",
        "virtio block devices, driven from user space by DMA; with a daemon or without",
        BuildInfo(verbs),
        BuildRead(verbs),
        BuildWrite(verbs));

    private static Option<string?> PoolOption() => new("--pool")
    {
        Description = "The daemon's pool to use [default: one that the device reaches, else one made for the call]",
        HelpName = "NAME",
    };

    private static Option<int> DepthOption() => new("--queue-depth")
    {
        Description = "Requests in flight at most, 1 to 1024",
        HelpName = "N",
        DefaultValueFactory = _ => 16,
    };

    private static Option<bool> InterruptOption() => new("--interrupt") { Description = "Sleep until the device interrupts instead of polling" };

    private static Option<bool> Sha256Option() => new("--sha256") { Description = "Print the SHA-256 of the data" };

    // A named pool is the daemon's; without one the work is done wherever it can be.
    private static IControl Control(Invocation run, string? pool) => pool is null ? run.DaemonOrLocal() : run.Daemon();

    private static Command BuildInfo(VerbBuilder verbs)
    {
        Argument<PciAddress> device = AddressParser.One();
        Option<string?> pool = PoolOption();
        return verbs.Verb("info", "Shows a device's size, limits and features", ["vfiopin blk info 0000:00:04.0"], [device, pool], run =>
        {
            using IControl control = Control(run, run.Get(pool));
            BlockInfo info = run.Call(control, BlockOperations.Info, new BlockQuery(run.Get(device)) { Pool = run.Get(pool) });
            run.Show(info, static json => json.BlockInfo, (i, view) => view.List(
            [
                ("device", i.Device.ToString()),
                ("size", string.Create(CultureInfo.InvariantCulture, $"{SizeText.Of(i.Bytes)} ({i.Bytes} bytes)")),
                ("block", SizeText.Of(i.BlockSize)),
                ("largest piece", i.MaxSegmentBytes is uint most ? SizeText.Of(most) : "no limit"),
                ("pieces of a request", i.MaxSegments.ToString(CultureInfo.InvariantCulture)),
                ("read-only", i.ReadOnly ? "yes" : "no"),
                ("flush", i.HasFlush ? "yes" : "no"),
                ("queue", string.Create(CultureInfo.InvariantCulture, $"{i.QueueSize} entries")),
                ("features", i.Features),
            ]));
            return Vfiopin.Done;
        });
    }

    private static Command BuildRead(VerbBuilder verbs)
    {
        Argument<PciAddress> device = AddressParser.One();
        Option<string?> pool = PoolOption();
        Option<ulong?> offset = SizeParser.Option("--offset", "The first byte on the device, a multiple of its block size");
        Option<ulong?> length = SizeParser.Option("--length", "Bytes, a multiple of the block size [default: up to the device's end]");
        var output = new Option<string?>("--out") { Description = "Where the data goes: a file, a device or a pipe; - for standard output", HelpName = "FILE" };
        Option<bool> sha256 = Sha256Option();
        Option<int> depth = DepthOption();
        Option<bool> interrupt = InterruptOption();
        return verbs.Verb(
            "read",
            "Reads a device by DMA into a pool",
            ["vfiopin blk read 0000:00:04.0 --pool demo --sha256", "vfiopin blk read 0000:00:04.0 --offset 1MiB --length 64KiB --out boot.bin"],
            [device, pool, offset, length, output, sha256, depth, interrupt],
            run =>
            {
                string? path = run.Get(output);
                using IControl control = Control(run, run.Get(pool));
                using DataFile? file = path is null ? null : DataFile.Output(path, run.Environment);
                BlockTransferResult result = run.Call(
                    control,
                    BlockOperations.Read,
                    new BlockTransferRequest(run.Get(device))
                    {
                        Pool = run.Get(pool),
                        Offset = run.Get(offset) ?? 0,
                        Length = run.Get(length),
                        QueueDepth = run.Get(depth),
                        Interrupt = run.Get(interrupt),
                        Sha256 = run.Get(sha256),
                    },
                    file is null ? [] : [file.Descriptor]);
                file?.Commit();
                ShowResult(run, "read", result, toError: path == "-");
                return Vfiopin.Done;
            });
    }

    private static Command BuildWrite(VerbBuilder verbs)
    {
        Argument<PciAddress> device = AddressParser.One();
        Option<string?> pool = PoolOption();
        Option<ulong?> offset = SizeParser.Option("--offset", "The first byte on the device, a multiple of its block size");
        Option<ulong?> length = SizeParser.Option("--length", "Bytes, a multiple of the block size [default: the file's]");
        var input = new Option<string>("--in") { Description = "Where the data comes from; - for standard input. That and a pipe need --length", HelpName = "FILE", Required = true };
        Option<bool> sha256 = Sha256Option();
        Option<int> depth = DepthOption();
        Option<bool> interrupt = InterruptOption();
        return verbs.Verb(
            "write",
            "Writes a file to a device by DMA out of a pool, and flushes it",
            ["vfiopin blk write 0000:00:04.0 --in disk.img", "vfiopin blk write 0000:00:04.0 --in - --offset 1MiB --length 4KiB"],
            [device, input, pool, offset, length, sha256, depth, interrupt],
            run =>
            {
                string path = run.Get(input)!;
                ulong bytes = run.Get(length) ?? DataFile.LengthOf(path)
                    ?? throw new UsageException($"--in {path}: the length of the data is not known; tell it with --length");
                using IControl control = Control(run, run.Get(pool));
                using DataFile file = DataFile.Input(path, run.Environment);
                BlockTransferResult result = run.Call(
                    control,
                    BlockOperations.Write,
                    new BlockTransferRequest(run.Get(device))
                    {
                        Pool = run.Get(pool),
                        Offset = run.Get(offset) ?? 0,
                        Length = bytes,
                        QueueDepth = run.Get(depth),
                        Interrupt = run.Get(interrupt),
                        Sha256 = run.Get(sha256),
                    },
                    file.Descriptor);
                ShowResult(run, "written", result, toError: false);
                return Vfiopin.Done;
            });
    }

    private static void ShowResult(Invocation run, string what, BlockTransferResult result, bool toError)
    {
        run.Show(
            result,
            static json => json.BlockTransferResult,
            (r, view) =>
            {
                var lines = new List<(string, string)>
                {
                    (what, string.Create(CultureInfo.InvariantCulture, $"{r.Bytes} bytes at {r.Offset} of {r.Device}, through {(r.Pool is null ? "a pool made for it" : $"pool {r.Pool}")}")),
                    ("time", string.Create(CultureInfo.InvariantCulture, $"{r.Seconds:0.000} s, {SizeText.Of((ulong)(r.Bytes / Math.Max(r.Seconds, 1e-9)))}/s")),
                };
                if (r.Sha256 is not null)
                {
                    lines.Add(("sha256", r.Sha256));
                }

                view.List(lines);
            },
            toError);
    }
}
