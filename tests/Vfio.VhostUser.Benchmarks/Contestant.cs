using System.Diagnostics;
using System.Runtime;
using Vfio.Virtio;

namespace Vfio.VhostUser.Benchmarks;

/// <summary>A back-end with the guest that loads it. It stands still (SIGSTOP) but for its turns, so that several are measured in
/// turn on the same two processors, a fifth of a second each, in one state of the machine.</summary>
internal sealed class Contestant : IDisposable
{
    // The back-end's code is compiled beside two threads that poll, and how far that is cannot be seen from here.
    private static readonly TimeSpan WarmUp = TimeSpan.FromSeconds(4);
    private static readonly TimeSpan Quiet = TimeSpan.FromSeconds(1);

    private readonly Backend _backend;
    private readonly LoadGenerator _load;

    // Of the guest, that it sleeps while it waits for the answer to an unmap: what it used tells nothing of who kept it waiting.
    private readonly bool _sleeps;

    /// <summary>Starts it, and lets it run until both sides' code is compiled for good and the IOTLB is warm.</summary>
    public Contestant(BackendKind kind, VirtioFeatures features, Mapping mapping)
    {
        Kind = kind;
        _sleeps = mapping is Mapping.Dynamic or Mapping.Dynamic32;
        _backend = new Backend(kind);
        try
        {
            _load = new LoadGenerator(_backend.Socket, features, mapping);
            _load.Run(WarmUp);
            var quiet = Stopwatch.StartNew();
            for (long compiled = -1; quiet.Elapsed < Quiet;)
            {
                _load.Run(Turns.Settling);
                if (JitInfo.GetCompiledMethodCount() is var now && now != compiled)
                {
                    compiled = now;
                    quiet.Restart();
                }
            }

            _load.Drain();
            _backend.Pause();
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    public BackendKind Kind { get; }

    public long Misses => _load.Misses;

    /// <summary>One turn, with the calling thread as the guest.</summary>
    public Turn Run()
    {
        TimeSpan guestBefore = ProcessorTime.OfThisThread();
        TimeSpan backendBefore = _backend.Used();
        long resumed = Stopwatch.GetTimestamp();
        _backend.Resume();
        _load.Run(Turns.Settling);
        (double begin, double end, double mpps) = _load.Run(Turns.Slice);
        _load.Drain();
        _backend.Pause();
        TimeSpan turn = Stopwatch.GetElapsedTime(resumed);
        double guest = _sleeps ? 1 : (ProcessorTime.OfThisThread() - guestBefore) / turn;
        double backend = (_backend.Used() - backendBefore) / turn;
        return new Turn(begin, end, mpps, (guest + backend) / 2);
    }

    public void Dispose()
    {
        _backend.Resume();
        _load?.Dispose();
        _backend.Dispose();
    }
}
