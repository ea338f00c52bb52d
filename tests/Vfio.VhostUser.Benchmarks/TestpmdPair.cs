using System.Diagnostics;
using System.Globalization;
using System.Net.Sockets;
using System.Text.Json.Nodes;

namespace Vfio.VhostUser.Benchmarks;

/// <summary>A back-end and DPDK's testpmd as its front-end, started by somebody else. Both stand still (SIGSTOP) but for their turns.</summary>
internal sealed class TestpmdPair : IDisposable
{
    // DPDK's telemetry answers in one message, of at most so much (its max_output_len).
    private const int LongestAnswer = 16384;

    private readonly int[] _processes;
    private readonly string _counter;
    private readonly Socket _telemetry = new(AddressFamily.Unix, SocketType.Seqpacket, ProtocolType.Unspecified);
    private readonly byte[] _answer = new byte[LongestAnswer];

    /// <summary>Connects to the front-end's telemetry.</summary>
    /// <param name="description"><c>NAME=TELEMETRY=PROCESS,PROCESS</c>.</param>
    /// <param name="counter">Which of the counts of port 0 is meant.</param>
    public TestpmdPair(string description, string counter)
    {
        string[] parts = description.Split('=');
        Name = parts[0];
        _processes = [.. parts[2].Split(',').Select(p => int.Parse(p, CultureInfo.InvariantCulture))];
        _counter = counter;
        try
        {
            Signal(Signals.Continue);
            _telemetry.Connect(new UnixDomainSocketEndPoint(parts[1]));
            // It introduces itself first.
            Receive();
            Signal(Signals.Stop);
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    public string Name { get; }

    /// <summary>One turn.</summary>
    /// <exception cref="InvalidOperationException">There were no frames.</exception>
    public Turn Run()
    {
        TimeSpan usedBefore = Used();
        long resumed = Stopwatch.GetTimestamp();
        Signal(Signals.Continue);
        Pass(Turns.Settling);
        (double begin, long before) = Count();
        Pass(Turns.Slice);
        (double end, long after) = Count();
        Signal(Signals.Stop);
        TimeSpan turn = Stopwatch.GetElapsedTime(resumed);
        double share = (Used() - usedBefore) / (2 * turn);
        return after == before
            ? throw new InvalidOperationException($"{Name}: no frames in {Turns.Slice.TotalMilliseconds} ms")
            : new Turn(begin, end, (after - before) / (end - begin) / 1e6, share);
    }

    public void Dispose()
    {
        // Who ends them next finds them alive.
        Signal(Signals.Continue);
        _telemetry.Dispose();
    }

    // What both have used of the processors.
    private TimeSpan Used() => _processes.Aggregate(TimeSpan.Zero, (used, process) => used + ProcessorTime.Of(process));

    private void Signal(int signal)
    {
        foreach (int process in _processes)
        {
            Signals.Send(process, signal);
        }
    }

    // Nothing comes meanwhile, unless it ends.
    private void Pass(TimeSpan time)
    {
        if (_telemetry.Poll(time, SelectMode.SelectRead))
        {
            throw new InvalidOperationException($"{Name}: the front-end has ended");
        }
    }

    private (double Time, long Count) Count()
    {
        _telemetry.Send("/ethdev/stats,0"u8);
        JsonNode answer = JsonNode.Parse(Receive())!;
        return (LatencyWatch.Now, (long)answer["/ethdev/stats"]![_counter]!);
    }

    private ReadOnlySpan<byte> Receive() => _telemetry.Receive(_answer) is not 0 and var length
        ? _answer.AsSpan(0, length)
        : throw new InvalidOperationException($"{Name}: the front-end has ended");
}
