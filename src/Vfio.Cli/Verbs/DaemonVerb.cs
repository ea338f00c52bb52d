using System.CommandLine;
using Vfio.Service;

namespace Vfio.Cli.Verbs;

/// <summary><c>vfiopin daemon</c>.</summary>
internal static class DaemonVerb
{
    public static Command Build(VerbBuilder verbs)
    {
        var group = new Option<string?>("--group")
        {
            Description = "The group that may use the socket besides root and the daemon's own user",
            HelpName = "NAME",
        };
        return verbs.Verb(
            "daemon",
            "Holds pools and devices, and serves the other verbs over a socket until SIGTERM or Ctrl-C",
            ["vfiopin daemon &", "vfiopin daemon --socket /tmp/vfiopin.sock --group kvm"],
            [group],
            run => Run(run, run.Get(group)));
    }

    private static int Run(Invocation run, string? groupName)
    {
        uint? group = groupName is null ? null : GroupFile.Find(groupName)
            ?? throw new UsageException($"--group {groupName}: there is no such group");
        TextWriter log = TextWriter.Synchronized(run.Environment.Error);
        using Engine engine = run.Environment.NewEngine(line => log.WriteLine($"vfiopin daemon: {line}"));
        using (new ControlServer(engine, run.SocketPath, log.WriteLine, group))
        {
            log.WriteLine($"vfiopin daemon: listening at {run.SocketPath}");
            run.Cancellation.WaitHandle.WaitOne();
            log.WriteLine("vfiopin daemon: ending");
        }

        log.WriteLine("vfiopin daemon: ended; nothing is left pinned");
        return Vfiopin.Done;
    }
}
