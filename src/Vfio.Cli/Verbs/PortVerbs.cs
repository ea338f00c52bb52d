using System.CommandLine;
using System.Globalization;
using Vfio.Cli.Terminal;
using Vfio.Linux;
using Vfio.Service;

namespace Vfio.Cli.Verbs;

/// <summary><c>vfiopin port add|list|show|remove</c>.</summary>
internal static class PortVerbs
{
    public static Command Build(VerbBuilder verbs) => verbs.Noun(
        "port",
        "Network cards of virtual machines, served by the daemon",
        BuildAdd(verbs),
        BuildList(verbs),
        BuildNamed(verbs, "show", "Shows a port with its session, its counters and its rings", PortOperations.Show),
        BuildNamed(verbs, "remove", "Ends a port's session and gives its memory back; shows what it did", PortOperations.Remove));

    private static Argument<string> Name() => new("PORT") { Description = "The port's name" };

    private static Command BuildAdd(VerbBuilder verbs)
    {
        Argument<string> name = Name();
        var socketPath = new Option<string?>("--socket-path") { Description = "Where the front-end's socket is", HelpName = "PATH" };
        var descriptor = new Option<int?>("--fd") { Description = "A connected socket that was inherited, to hand to the daemon", HelpName = "FDNUM" };
        var peer = new Option<string?>("--peer")
        {
            Description = "The port that frames go to and come from; it may be added later. Without one they go back",
            HelpName = "PORT",
        };
        var pool = new Option<string?>("--pool")
        {
            Description = "Take the memory for frames from this pool, which was made with --buffer-size 128KiB",
            HelpName = "POOL",
        };
        var shape = new PortShape();
        return verbs.Verb(
            "add",
            "Serves a virtual machine's network card until the port is removed",
            [
                "vfiopin port add vm0 --socket-path /run/vm0.sock --cores 1",
                "vfiopin port add vm1 --socket-path /run/vm1.sock --peer vm0 --cores 1",
                "vfiopin port add vm2 --socket-path /run/vm2.sock --forward rxonly --device 0000:00:04.0",
            ],
            [name, socketPath, descriptor, peer, pool, .. shape.Options],
            run =>
            {
                string? path = run.Get(socketPath);
                int? number = run.Get(descriptor);
                if ((path is null) == (number is null) || number < 0)
                {
                    throw new UsageException("give either --socket-path or --fd");
                }

                PortRequest request = shape.Requests(run, (run.Get(name), path))[0] with { Peer = run.Get(peer), Pool = run.Get(pool) };
                using IControl control = run.Daemon();
                using FileDescriptor? inherited = number is null ? null : new FileDescriptor(LinuxKernel.Instance, number.Value);
                run.Show(
                    run.Call(control, PortOperations.Add, request, inherited is null ? [] : [inherited]), static json => json.PortInfo, ShowPort);
                return Vfiopin.Done;
            });
    }

    private static Command BuildList(VerbBuilder verbs) => verbs.Verb(
        "list",
        "Lists the daemon's ports",
        ["vfiopin port list"],
        [],
        run =>
        {
            using IControl control = run.Daemon();
            run.Show(run.Call(control, PortOperations.List, NoParameters.Instance), static json => json.PortInfoArray, (ports, view) =>
                view.Table(["PORT", "STATE", "FORWARD", "PEER", "QUEUES", "SESSIONS", "FROM GUEST", "TO GUEST", "DROPPED"], ports.Select(p => new[]
                {
                    p.Name, Word(p.State), Word(p.Forward), p.Peer ?? "-", Text(p.Queues), Text(p.Sessions), Text(p.FromGuest.Frames),
                    Text(p.ToGuest.Frames), Text(p.FromGuest.Dropped + p.ToGuest.Dropped),
                })));
            return Vfiopin.Done;
        });

    private static Command BuildNamed(VerbBuilder verbs, string verb, string description, Operation<PortName, PortInfo> operation)
    {
        Argument<string> name = Name();
        return verbs.Verb(verb, description, [$"vfiopin port {verb} vm0"], [name], run =>
        {
            using IControl control = run.Daemon();
            run.Show(run.Call(control, operation, new PortName(run.Get(name))), static json => json.PortInfo, ShowPort);
            return Vfiopin.Done;
        });
    }

    private static void ShowPort(PortInfo port, TextView view)
    {
        var lines = new List<(string, string)>
        {
            ("port", port.Name),
            ("state", port.Failure is { } failure ? $"{Word(port.State)}: {failure}" : Word(port.State)),
            ("socket", port.SocketPath ?? "inherited"),
            ("forward", Word(port.Forward)),
            ("peer", port.Peer is { } peer ? port.Delivers ? peer : $"{peer}, which is not there: frames are dropped" : "-"),
            ("memory", port.Pool is { } pool ? $"pool {pool}" : "its own, not pinned"),
            ("cores", port.Cores.Count == 0 ? "-" : string.Join(',', port.Cores)),
            ("sessions", $"{Text(port.Sessions)}: {NetReport.Said(port.Messages, port.Refused, port.Losses)}"),
        };
        if (port.Session is { } session)
        {
            lines.Add(("features", $"{session.Features}: {session.FeatureNames}"));
            lines.Add(("protocol features", session.ProtocolFeatures));
            lines.Add(("messages", string.Create(CultureInfo.InvariantCulture, $"{session.Messages}, {session.Refused} refused")));
            if (session.Iotlb is { } iotlb)
            {
                lines.Add(("IOTLB", iotlb.ToString()));
            }
        }

        lines.Add(("from guest", Traffic(port.FromGuest)));
        lines.Add(("to guest", Traffic(port.ToGuest)));
        view.List(lines);
        view.Table(["RING", "STATE", "SIZE", "FRAMES", "BYTES", "BURSTS", "KICKS", "CALLS", "DROPPED"], port.Rings.Select(r => new[]
        {
            $"{Text(r.Index)} {(r.Index % 2 == 0 ? "receive" : "transmit")}", r.Error is null ? r.State : $"{r.State}: {r.Error}", Text(r.Size),
            Text(r.Traffic.Frames), Text(r.Traffic.Bytes), Text(r.Traffic.Bursts), Text(r.Traffic.Kicks), Text(r.Traffic.Calls), Text(r.Traffic.Dropped),
        }));
    }

    private static string Traffic(TrafficInfo traffic)
    {
        string causes = string.Join(", ", NetReport.Causes(traffic.Drops).Where(c => c.Count != 0).Select(c => $"{Text(c.Count)} {c.Cause}"));
        string breaks = string.Join(", ", traffic.Breaks.Select(b => $"{Text(b.Value)} {b.Key}"));
        return string.Create(CultureInfo.InvariantCulture, $"{traffic.Frames} frames, {traffic.Bytes} bytes, {traffic.Dropped} dropped")
            + (causes.Length == 0 ? string.Empty : $" ({causes})")
            + (breaks.Length == 0 ? string.Empty : $", rings broken {Text(traffic.Broken)} times ({breaks})");
    }

    private static string Word<T>(T value)
        where T : struct, Enum => value.ToString().ToLowerInvariant();

    private static string Text(long value) => value.ToString(CultureInfo.InvariantCulture);
}
