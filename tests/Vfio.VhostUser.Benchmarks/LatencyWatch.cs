using System.Diagnostics;
using System.Globalization;

namespace Vfio.VhostUser.Benchmarks;

/// <summary>How far processor 1 is from processor 0, all the time (native/bench/core-latency.c). On a virtual machine the host moves
/// them apart and together again, every second or so, and all figures of rings with them: only those of one state compare.</summary>
internal sealed class LatencyWatch : IDisposable
{
    // Seen on virtual machines: 23 ns between two threads of one core; about 45 where a few cores share a cache (AMD), 50 to 115 where
    // all of a socket do (Intel); 130 to 250 where there is no cache between them.
    private const double NearNanoseconds = 35;
    private const double FarNanoseconds = 120;
    private const int Milliseconds = 25;
    // A probe can be kept waiting as anything else can; a processor that is moved makes many differ.
    private const double LeastAlike = 0.8;

    private readonly Process _process;
    private readonly List<(double Time, string State)> _probes = [];
    private readonly Lock _lock = new();

    /// <summary>Starts to watch.</summary>
    /// <param name="program">The program, built.</param>
    public LatencyWatch(string program)
    {
        _process = Process.Start(new ProcessStartInfo(program, Milliseconds.ToString(CultureInfo.InvariantCulture)) { RedirectStandardOutput = true })
            ?? throw new InvalidOperationException($"{program} did not start");
        _process.OutputDataReceived += (_, e) =>
        {
            if (e.Data?.Split(' ') is [string time, string nanoseconds])
            {
                lock (_lock)
                {
                    _probes.Add((
                        double.Parse(time, CultureInfo.InvariantCulture),
                        State(double.Parse(nanoseconds, CultureInfo.InvariantCulture))));
                }
            }
        };
        _process.BeginOutputReadLine();
        AppDomain.CurrentDomain.ProcessExit += OnExit;
    }

    /// <summary>Seconds since 1970, as the program counts them.</summary>
    public static double Now => (DateTime.UtcNow - DateTime.UnixEpoch).TotalSeconds;

    /// <summary>What a pair of processors can be to each other, from the nearest on.</summary>
    public static IReadOnlyList<string> States { get; } = ["sibling", "near", "far"];

    /// <summary>One of <see cref="States"/> when it was so all the time, else null.</summary>
    public string? StateBetween(double begin, double end)
    {
        if (_process.HasExited)
        {
            throw new InvalidOperationException("the latency between the processors cannot be measured");
        }

        lock (_lock)
        {
            string[] within = [.. _probes.Where(p => p.Time > begin && p.Time < end).Select(p => p.State)];
            return within.Length < 3
                ? null
                : States.FirstOrDefault(state => within.Count(one => one == state) >= LeastAlike * within.Length);
        }
    }

    public void Dispose()
    {
        AppDomain.CurrentDomain.ProcessExit -= OnExit;
        _process.Kill();
        _process.WaitForExit();
        _process.Dispose();
    }

    private static string State(double nanoseconds) => States[
        nanoseconds < NearNanoseconds ? 0
        : nanoseconds < FarNanoseconds ? 1
        : 2];

    private void OnExit(object? sender, EventArgs e) => _process.Kill();
}
