using System.CommandLine;
using Vfio.Cli.Terminal;
using Vfio.Linux;
using Vfio.Service;

namespace Vfio.Cli.Verbs;

/// <summary><c>vfiopin doctor</c>.</summary>
internal static class DoctorVerb
{
    public static Command Build(VerbBuilder verbs)
    {
        Argument<PciAddress?> address = AddressParser.OneOrNone();
        Option<ulong?> size = SizeParser.Option("--size", "Bytes that shall be pinned, to hold against the limits");
        return verbs.Verb(
            "doctor",
            "Looks at everything that pinning needs, and says what cures what is wrong; changes nothing",
            ["vfiopin doctor", "vfiopin doctor 0000:00:04.0 --size 1GiB"],
            [address, size],
            run =>
            {
                (DaemonInfo? daemon, string whyNone) = AskDaemon(run);
                DoctorReport report = new Doctor(run.Environment.Kernel, run.Environment.Sysfs).Examine(run.Get(address), run.Get(size), daemon, whyNone);
                run.Show(report, static json => json.DoctorReport, Show);
                return report.Worst == FindingStatus.Failure ? Vfiopin.Failed : Vfiopin.Done;
            });
    }

    // A daemon that cannot be asked, or does not answer, must not keep the rest from being told.
    private static (DaemonInfo? Daemon, string WhyNone) AskDaemon(Invocation run)
    {
        try
        {
            using ControlClient? client = ControlClient.TryConnect(run.SocketPath, out Errno errno);
            if (client is null)
            {
                return (null, errno is Errno.ENOENT or Errno.ECONNREFUSED ? "no daemon runs" : $"the daemon could not be asked: {errno}");
            }

            using var patience = new CancellationTokenSource(run.Environment.DaemonPatience);
            using CancellationTokenRegistration end = patience.Token.Register(client.Abandon);
            return (client.Invoke(DaemonOperations.Info, NoParameters.Instance, new OperationContext { Cancellation = run.Cancellation }), string.Empty);
        }
        catch (IOException e)
        {
            return (null, $"the daemon did not answer: {e.Message}");
        }
    }

    private static void Show(DoctorReport report, TextView view)
    {
        foreach (Finding finding in report.Findings)
        {
            (string word, string color) = finding.Status switch
            {
                FindingStatus.Ok => ("ok     ", "green"),
                FindingStatus.Warning => ("warning", "yellow"),
                _ => ("failure", "red"),
            };
            view.Line(word, color, $"{finding.Subject}: {finding.Text}");
            if (finding.Cure is not null)
            {
                view.Line($"         cure: {finding.Cure}");
            }
        }
    }
}
