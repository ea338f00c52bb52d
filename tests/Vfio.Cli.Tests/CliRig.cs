using System.Diagnostics;
using System.Text.Json;
using Vfio.Service;
using Vfio.Testing;

namespace Vfio.Cli.Tests;

/// <summary>The program in a simulated machine: one device on vfio-pci at 0000:00:05.0, a directory for its files, and a daemon
/// when the test starts one.</summary>
internal sealed class CliRig : IDisposable
{
    public const string Device = "0000:00:05.0";

    private readonly string _directory = Directory.CreateTempSubdirectory("vfiopin-cli-").FullName;
    private ControlServer? _daemon;
    private Engine? _engine;

    public CliRig(bool hasDevice = true, KernelBehaviour? behaviour = null)
    {
        Host = new SimHost(behaviour);
        if (hasDevice)
        {
            Host.Add(new SimPlainDevice(PciAddress.Parse(Device)), group: 5);
        }
    }

    public SimHost Host { get; }

    public string SocketPath => Path.Combine(_directory, "vfiopin.sock");

    public string PathOf(string name) => Path.Combine(_directory, name);

    /// <summary>Writes a file that stands for one of the kernel's.</summary>
    public void Tell(string path, string text)
    {
        string file = Host.Sysfs.Resolve(path);
        Directory.CreateDirectory(Path.GetDirectoryName(file)!);
        File.WriteAllText(file, text);
    }

    /// <summary>Makes a pipe with a name.</summary>
    public string MakePipe(string name)
    {
        using var mkfifo = Process.Start("mkfifo", [PathOf(name)]);
        mkfifo.WaitForExit();
        Assert.AreEqual(0, mkfifo.ExitCode);
        return PathOf(name);
    }

    /// <summary>A pool of the daemon, from the inside.</summary>
    public EnginePool PoolOf(string name) => _engine!.GetPool(name);

    public CliRig WithDaemon()
    {
        _engine = new Engine(Host.Kernel, Host.Sysfs);
        _daemon = new ControlServer(_engine, SocketPath, _ => { });
        return this;
    }

    public TimeSpan DaemonPatience { get; init; } = TimeSpan.FromMinutes(1);

    public TimeSpan DaemonStart { get; init; } = TimeSpan.FromMilliseconds(50);

    public void StopDaemon() => _daemon?.Dispose();

    /// <summary>Runs a command line.</summary>
    public CliOutcome Run(params string[] args) => Run(args, new CliStreams());

    /// <summary>Runs a command line with standard streams of the test's own.</summary>
    public CliOutcome Run(string[] args, CliStreams streams)
    {
        using var output = new StringWriter();
        using var error = new StringWriter();
        int code = Vfiopin.Run(args, new CliEnvironment
        {
            Out = output,
            Error = error,
            Kernel = Host.Kernel,
            Sysfs = Host.Sysfs,
            StateDirectory = _directory,
            SocketPath = SocketPath,
            OpenInput = () => streams.Input,
            OpenOutput = () => streams.Output,
            Cancellation = streams.Cancellation,
            DaemonPatience = DaemonPatience,
            DaemonStart = DaemonStart,
        });
        return new CliOutcome(code, output.ToString(), error.ToString());
    }

    /// <summary>Runs a command line that must succeed, and reads what it prints as JSON.</summary>
    public JsonElement RunJson(params string[] args)
    {
        CliOutcome outcome = Run([.. args, "-o", "json"]);
        Assert.AreEqual(0, outcome.Code, outcome.Error);
        using JsonDocument document = JsonDocument.Parse(outcome.Output);
        return document.RootElement.Clone();
    }

    /// <summary>Runs a command line that must fail with exit code 1 and say so in one line on standard error.</summary>
    public string RunFailing(params string[] args)
    {
        CliOutcome outcome = Run(args);
        Assert.AreEqual(1, outcome.Code, outcome.Output);
        Assert.AreEqual(string.Empty, outcome.Output);
        Assert.HasCount(1, outcome.Error.TrimEnd('\n').Split('\n'), outcome.Error);
        return outcome.Error;
    }

    public void Dispose()
    {
        StopDaemon();
        _engine?.Dispose();
        Host.Dispose();
        Directory.Delete(_directory, recursive: true);
    }
}

/// <summary>What a command reads and writes as bytes, and what interrupts it.</summary>
internal sealed record CliStreams
{
    public Stream Input { get; init; } = Stream.Null;

    public Stream Output { get; init; } = Stream.Null;

    public CancellationToken Cancellation { get; init; }
}

/// <summary>What a command did.</summary>
internal sealed record CliOutcome(int Code, string Output, string Error);
