using System.Diagnostics;
using System.Globalization;

namespace Vfio.VhostUser.Benchmarks;

/// <summary>How far processor 1 is from processor 0, all the time (native/bench/core-latency.c). On a virtual machine the host moves
/// them apart and together again, every second or so, and all figures of rings with them: only those of one state compare.</summary>
internal sealed class LatencyWatch : IDisposable
{
    // About 45 ns when the two share a cache, from 100 on when they do not.
    private const double NearNanoseconds = 80;
    private const int Milliseconds = 25;

    private readonly Process _process;
    private readonly List<(double Time, bool IsNear)> _probes = [];
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
                        double.Parse(nanoseconds, CultureInfo.InvariantCulture) < NearNanoseconds));
                }
            }
        };
        _process.BeginOutputReadLine();
        AppDomain.CurrentDomain.ProcessExit += OnExit;
    }

    /// <summary>Seconds since 1970, as the program counts them.</summary>
    public static double Now => (DateTime.UtcNow - DateTime.UnixEpoch).TotalSeconds;

    /// <summary>"near" or "far" when it was so all the time, else null.</summary>
    public string? StateBetween(double begin, double end)
    {
        if (_process.HasExited)
        {
            throw new InvalidOperationException("the latency between the processors cannot be measured");
        }

        lock (_lock)
        {
            (double Time, bool IsNear)[] within = [.. _probes.Where(p => p.Time > begin && p.Time < end)];
            return within.Length < 3 || within.Any(p => p.IsNear != within[0].IsNear) ? null : within[0].IsNear ? "near" : "far";
        }
    }

    public void Dispose()
    {
        AppDomain.CurrentDomain.ProcessExit -= OnExit;
        _process.Kill();
        _process.WaitForExit();
        _process.Dispose();
    }

    private void OnExit(object? sender, EventArgs e) => _process.Kill();
}
