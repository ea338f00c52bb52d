using System.Diagnostics;
using System.Globalization;
using Vfio.Service;
using Vfio.VhostUser;

namespace Vfio.Cli.Verbs;

/// <summary>What a network back-end did, as text: rates while it runs, totals at the end.</summary>
internal sealed class NetReport(TextWriter output, NetEngine engine)
{
    private readonly Stopwatch _clock = Stopwatch.StartNew();
    private long _fromGuests;
    private long _toGuests;

    /// <summary>Prints the rates since the last time.</summary>
    public void Show()
    {
        double seconds = _clock.Elapsed.TotalSeconds;
        _clock.Restart();
        long fromGuests = engine.Total(fromGuests: true).Frames;
        long toGuests = engine.Total(fromGuests: false).Frames;
        output.WriteLine(string.Create(CultureInfo.InvariantCulture,
            $"from guests {(fromGuests - _fromGuests) / seconds / 1e6:F2} Mpps, to guests {(toGuests - _toGuests) / seconds / 1e6:F2} Mpps"));
        (_fromGuests, _toGuests) = (fromGuests, toGuests);
    }

    /// <summary>Prints the totals.</summary>
    public static void Totals(TextWriter output, NetEngine engine, TimeSpan elapsed)
    {
        output.WriteLine(string.Create(CultureInfo.InvariantCulture,
            $"{elapsed.TotalSeconds:F1} s, {engine.Sessions} sessions, {engine.Pollers.Sum(p => p.Kicks)} kicks"));
        Total(output, "from guests", engine.Total(fromGuests: true));
        Total(output, "to guests", engine.Total(fromGuests: false));
    }

    private static void Total(TextWriter output, string direction, NetQueueCounters counters)
    {
        output.WriteLine(string.Create(CultureInfo.InvariantCulture,
            $"{direction}: {counters.Frames} frames, {counters.Bytes} bytes, {counters.Bursts} bursts, {counters.Calls} calls, {counters.Dropped} dropped"));
        foreach ((string cause, long count) in Causes(counters))
        {
            if (count != 0)
            {
                output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"  {count} dropped: {cause}"));
            }
        }
    }

    private static (string Cause, long Count)[] Causes(NetQueueCounters counters) =>
    [
        ("the ring was disabled", counters.DroppedDisabled),
        ("too short or too long to be a frame", counters.DroppedLength),
        ("the header asks for what cannot be done", counters.DroppedHeader),
        ("larger than the driver's buffers", counters.DroppedTooLarge),
        ("segments that the driver does not take", counters.DroppedOffload),
        ("no buffer in time, or no guest", counters.DroppedNoBuffer),
    ];
}
