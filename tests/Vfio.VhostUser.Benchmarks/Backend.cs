using System.Diagnostics;
using System.Globalization;
using Vfio.Linux;
using Vfio.Service;

namespace Vfio.VhostUser.Benchmarks;

/// <summary>A back-end in a process of its own that takes frames and drops them: its poller stays on processor 1.</summary>
internal sealed class Backend : IDisposable
{
    private readonly Process _process;
    private readonly string _directory = Directory.CreateTempSubdirectory("vfiopin-bench-").FullName;

    public Backend(BackendKind kind)
    {
        string socket = Path.Combine(_directory, "socket");
        string[] command = kind == BackendKind.Dpdk
            ? ["dpdk-testpmd", "--lcores", "0@0,1@1", "--no-pci", "--in-memory", "--single-file-segments", "-m", "512",
                "--vdev", $"net_vhost0,iface={socket},queues=1,iommu-support=1",
                "--", "--forward-mode=rxonly", "--no-flush-rx", "--total-num-mbufs=16384", "--nb-cores=1", "--stats-period=3600"]
            : [Environment.ProcessPath!, "backend", socket, kind.ToString()];
        var start = new ProcessStartInfo(command[0]) { RedirectStandardInput = true, RedirectStandardOutput = true, RedirectStandardError = true };
        foreach (string argument in command[1..])
        {
            start.ArgumentList.Add(argument);
        }

        _process = Process.Start(start) ?? throw new InvalidOperationException($"{command[0]} did not start");
        // One that stands still would not see that its input is closed.
        AppDomain.CurrentDomain.ProcessExit += OnExit;
        var lines = new List<string>();
        DataReceivedEventHandler note = (_, e) =>
        {
            lock (lines)
            {
                lines.Add(e.Data ?? string.Empty);
            }
        };
        _process.OutputDataReceived += note;
        _process.ErrorDataReceived += note;
        _process.BeginOutputReadLine();
        _process.BeginErrorReadLine();
        long begin = Stopwatch.GetTimestamp();
        UnixSocket? connection = null;
        while (connection is null)
        {
            if (_process.HasExited || Stopwatch.GetElapsedTime(begin).TotalSeconds > 30)
            {
                lock (lines)
                {
                    throw new InvalidOperationException($"{command[0]} does not listen: {string.Join('\n', lines)}");
                }
            }

            Thread.Yield();
            connection = File.Exists(socket) ? UnixSocket.TryConnect(socket, out _) : null;
        }

        Socket = connection;
    }

    /// <summary>The connection; whoever takes it owns it.</summary>
    public UnixSocket Socket { get; }

    /// <summary>What runs in that process.</summary>
    public static int Serve(string socket, BackendKind kind)
    {
        AppContext.SetSwitch("Vfio.VhostUser.SpeculationClampOff", kind == BackendKind.ClampOff);
        AppContext.SetSwitch("Vfio.VhostUser.IotlbPrefetchOff", kind == BackendKind.PrefetchOff);
        using PinnedPool pool = PinnedPool.Create(new PinnedPoolOptions
        {
            Name = "bench",
            Size = 32ul * FrameBatch.BufferSize,
            Backings = [MemoryBacking.Huge2MiB, MemoryBacking.Pages4KiB],
            BufferSize = FrameBatch.BufferSize,
            TrackDirty = false,
            Checked = false,
        });
        using var engine = new NetEngine(Console.Error.WriteLine);
        engine.Add(new NetPortOptions("bench") { SocketPath = socket, Mode = ForwardMode.RxOnly, Processors = [new Processor(1)] }, pool);
        // Until the one who started it is gone, or closes its end.
        while (Console.In.Read() >= 0)
        {
        }

        return 0;
    }

    /// <summary>How long its threads were on a processor so far.</summary>
    public TimeSpan Used() => ProcessorTime.Of(_process.Id);

    /// <summary>Makes it stand still.</summary>
    public void Pause() => Signals.Send(_process.Id, Signals.Stop);

    /// <summary>Lets it go on.</summary>
    public void Resume() => Signals.Send(_process.Id, Signals.Continue);

    public void Dispose()
    {
        AppDomain.CurrentDomain.ProcessExit -= OnExit;
        _process.StandardInput.Close();
        if (!_process.WaitForExit(500))
        {
            _process.Kill();
            _process.WaitForExit();
        }

        _process.Dispose();
        Directory.Delete(_directory, recursive: true);
    }

    private void OnExit(object? sender, EventArgs e)
    {
        _process.Kill();
        _process.WaitForExit();
        Directory.Delete(_directory, recursive: true);
    }

    public override string ToString() => _process.Id.ToString(CultureInfo.InvariantCulture);
}
