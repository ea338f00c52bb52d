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
        foreach (IotlbCounters iotlb in engine.Iotlbs)
        {
            output.WriteLine(string.Create(CultureInfo.InvariantCulture,
                $"IOTLB: {fromGuests + toGuests} frames so far, {iotlb.Entries} entries, {iotlb.Hits} hits, {iotlb.Misses} misses, {iotlb.Updates} updates, {iotlb.Invalidated} invalidated, {iotlb.AccessFailures} access failures"));
        }
    }

    /// <summary>Prints the totals.</summary>
    public static void Totals(TextWriter output, NetEngine engine, TimeSpan elapsed)
    {
        SessionCounters said = engine.Said();
        output.WriteLine(string.Create(CultureInfo.InvariantCulture,
            $"{elapsed.TotalSeconds:F1} s, {engine.Ports.Sum(p => p.Sessions)} sessions: {Said(said.Messages, said.Refused, said.Losses)}"));
        Total(output, "from guests", TrafficInfo.Of(engine.Total(fromGuests: true)));
        Total(output, "to guests", TrafficInfo.Of(engine.Total(fromGuests: false)));
    }

    /// <summary>Drops with their causes in words.</summary>
    public static (string Cause, long Count)[] Causes(DropInfo drops) =>
    [
        ("the ring was disabled, or the port only sends", drops.Disabled),
        ("too short or too long to be a frame", drops.Length),
        ("the header asks for what cannot be done", drops.Header),
        ("larger than the driver's buffers", drops.TooLarge),
        ("larger than the MTU", drops.Mtu),
        ("segments that the driver does not take", drops.Offload),
        ("no buffer in time, or no guest", drops.NoBuffer),
    ];

    /// <summary>What front-ends said, and did to their memory.</summary>
    public static string Said(long messages, long refused, long losses) => string.Create(CultureInfo.InvariantCulture,
        $"{messages} messages, {refused} refused, {losses} accesses found shared memory gone");

    private static void Total(TextWriter output, string direction, TrafficInfo traffic)
    {
        output.WriteLine(string.Create(CultureInfo.InvariantCulture,
            $"{direction}: {traffic.Frames} frames, {traffic.Bytes} bytes, {traffic.Bursts} bursts, {traffic.Kicks} kicks, {traffic.Calls} calls, {traffic.Dropped} dropped"));
        foreach ((string cause, long count) in Causes(traffic.Drops))
        {
            if (count != 0)
            {
                output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"  {count} dropped: {cause}"));
            }
        }

        foreach ((string cause, long count) in traffic.Breaks)
        {
            output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"  {count} times a ring broken: {cause}"));
        }
    }
}
