using System.Diagnostics.CodeAnalysis;
using Microsoft.Win32.SafeHandles;
using Vfio.Linux;
using Vfio.Service;

namespace Vfio.Cli;

/// <summary>What the program meets: its streams, the kernel, sysfs. Tests give their own.</summary>
internal sealed class CliEnvironment
{
    /// <summary>Results go here.</summary>
    public required TextWriter Out { get; init; }

    /// <summary>Errors and progress go here.</summary>
    public required TextWriter Error { get; init; }

    /// <summary>Whether <see cref="Out"/> is a terminal: tables and colours.</summary>
    public bool OutIsTerminal { get; init; }

    /// <summary>Whether <see cref="Error"/> is a terminal: progress bars.</summary>
    public bool ErrorIsTerminal { get; init; }

    /// <summary>The kernel.</summary>
    public IKernel Kernel { get; init; } = LinuxKernel.Instance;

    /// <summary>Where <c>/sys</c> and <c>/proc</c> are.</summary>
    public Sysfs Sysfs { get; init; } = new();

    /// <summary>Where the former drivers of bound devices are kept.</summary>
    public string StateDirectory { get; init; } = PciDriverBinding.DefaultStateDirectory;

    /// <summary>The daemon's socket unless <c>--socket</c> names another.</summary>
    public string SocketPath { get; init; } = ControlServer.DefaultPath;

    /// <summary>How long a verb that needs the daemon looks for it, as it may have been started a moment ago.</summary>
    public TimeSpan DaemonStart { get; init; } = TimeSpan.FromSeconds(1);

    /// <summary>How long <c>doctor</c> waits for the daemon's answer. One that was just started on a slow machine takes seconds.</summary>
    public TimeSpan DaemonPatience { get; init; } = TimeSpan.FromSeconds(20);

    /// <summary>Bytes that <c>--in -</c> reads.</summary>
    public Func<Stream> OpenInput { get; init; } = static () => Standard(0, FileAccess.Read);

    /// <summary>Bytes that <c>--out -</c> writes.</summary>
    public Func<Stream> OpenOutput { get; init; } = static () => Standard(1, FileAccess.Write);

    /// <summary>Ends the verb early, besides the signals.</summary>
    public CancellationToken Cancellation { get; init; }

    /// <summary>The real thing.</summary>
    public static CliEnvironment OfThisProcess() => new()
    {
        Out = Console.Out,
        Error = Console.Error,
        OutIsTerminal = !Console.IsOutputRedirected,
        ErrorIsTerminal = !Console.IsErrorRedirected,
        SocketPath = Environment.GetEnvironmentVariable("VFIOPIN_SOCKET") is { Length: > 0 } path ? path : ControlServer.DefaultPath,
    };

    // Not the console's own streams: those share a lock, so that a reader who stops would keep an error message from being written.
    [SuppressMessage("Reliability", "CA2000:Dispose objects before losing scope", Justification = "the stream disposes it, and it owns nothing")]
    private static FileStream Standard(int number, FileAccess access) =>
        new(new SafeFileHandle(number, ownsHandle: false), access, bufferSize: 0);

    /// <summary>An engine that meets the same.</summary>
    /// <param name="log">Takes a line for each thing that happens on a port and is worth one.</param>
    public Engine NewEngine(Action<string> log) => new(Kernel, Sysfs, log);
}
