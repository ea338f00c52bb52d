using System.Globalization;
using Vfio.VhostUser;
using Vfio.Virtio;

namespace Vfio.Service;

/// <summary>A port as <c>port show</c> tells it.</summary>
/// <param name="Name">Its name.</param>
/// <param name="State">Whether it has a front-end.</param>
/// <param name="Failure">Why it meets none, any more or until a stuck poller comes back; or null.</param>
/// <param name="SocketPath">Its socket, or null for a connected one that it was given.</param>
/// <param name="Client">Whether it connects there, or listens.</param>
/// <param name="Forward">What it does with frames.</param>
/// <param name="Peer">The port that it is connected with, or null.</param>
/// <param name="Delivers">Whether frames that it forwards go anywhere: back, or to a peer that is there.</param>
/// <param name="Queues">Pairs of queues.</param>
/// <param name="Cores">The processors of its pollers; none: wherever the scheduler puts the one.</param>
/// <param name="Pool">The pool that its frames are in, or null for memory of its own that is not pinned.</param>
/// <param name="Sessions">Sessions that were begun.</param>
/// <param name="Messages">Messages of front-ends, over all sessions.</param>
/// <param name="Refused">Those of them that were refused, over all sessions.</param>
/// <param name="Losses">Accesses that found memory gone which a front-end had shared, over all sessions; each such session ended.</param>
/// <param name="Session">The session that runs, or null.</param>
/// <param name="FromGuest">What came from the guest, over all sessions.</param>
/// <param name="ToGuest">What went to the guest, over all sessions.</param>
/// <param name="Rings">Each ring.</param>
public sealed record PortInfo(
    string Name,
    PortState State,
    string? Failure,
    string? SocketPath,
    bool Client,
    ForwardMode Forward,
    string? Peer,
    bool Delivers,
    int Queues,
    IReadOnlyList<int> Cores,
    string? Pool,
    int Sessions,
    long Messages,
    long Refused,
    long Losses,
    PortSessionInfo? Session,
    TrafficInfo FromGuest,
    TrafficInfo ToGuest,
    IReadOnlyList<RingInfo> Rings)
{
    internal static PortInfo Of(NetPort port, string? pool) => Of(port, pool, port.Said);

    private static PortInfo Of(NetPort port, string? pool, SessionCounters said) => new(
        port.Name,
        port.State,
        port.Failure,
        port.Options.SocketPath,
        port.Options.IsClient,
        port.Options.Mode,
        port.Peer,
        port.HasTarget,
        port.QueuePairs,
        [.. port.Options.Processors.Select(p => p.Number)],
        pool,
        port.Sessions,
        said.Messages,
        said.Refused,
        said.Losses,
        port.Session is { } session ? PortSessionInfo.Of(session) : null,
        TrafficInfo.Of(port.Total(fromGuest: true)),
        TrafficInfo.Of(port.Total(fromGuest: false)),
        [.. Enumerable.Range(0, port.RingCount).Select(i => RingInfo.Of(port, i))]);
}

/// <summary>A session of a port.</summary>
/// <param name="Features">Virtio features that were negotiated, in hexadecimal.</param>
/// <param name="FeatureNames">Their names.</param>
/// <param name="ProtocolFeatures">Protocol features that were negotiated.</param>
/// <param name="Messages">Messages that were received.</param>
/// <param name="Refused">Messages that were refused.</param>
/// <param name="Iotlb">What the device IOTLB did, or null without one.</param>
public sealed record PortSessionInfo(
    string Features, string FeatureNames, string ProtocolFeatures, long Messages, long Refused, IotlbCounters? Iotlb)
{
    internal static PortSessionInfo Of(VhostUserSession session)
    {
        VirtioFeatures features = session.Features;
        return new PortSessionInfo(
            string.Create(CultureInfo.InvariantCulture, $"0x{(ulong)features:x}"),
            Names(features),
            session.ProtocolFeatures.ToString(),
            session.Messages,
            session.Refused,
            features.HasFlag(VirtioFeatures.AccessPlatform) ? session.Iotlb : null);
    }

    private static string Names(VirtioFeatures features) => string.Join(", ", Enumerable.Range(0, 64)
        .Where(bit => ((ulong)features & (1ul << bit)) != 0)
        .Select(bit => NameOf((VirtioFeatures)(1ul << bit)) ?? string.Create(CultureInfo.InvariantCulture, $"bit {bit}")));

    // virtio 1.3, 2.2 "Feature Bits": 0 to 23 are the device type's.
    private static string? NameOf(VirtioFeatures feature) => feature switch
    {
        VhostFeatures.LogAll => nameof(VhostFeatures.LogAll),
        VhostFeatures.ProtocolFeatures => nameof(VhostFeatures.ProtocolFeatures),
        < (VirtioFeatures)(1ul << 24) => Enum.GetName((NetFeatures)feature),
        _ => Enum.GetName(feature),
    };
}

/// <summary>What happened on rings of one direction.</summary>
/// <param name="Frames">Frames moved.</param>
/// <param name="Bytes">Their bytes.</param>
/// <param name="Bursts">Batches that moved at least one.</param>
/// <param name="Kicks">Times that the driver's kick woke the poller.</param>
/// <param name="Calls">Calls made to the driver.</param>
/// <param name="Dropped">Frames dropped, for whatever cause.</param>
/// <param name="Drops">How many for which cause.</param>
/// <param name="Broken">Times that the driver broke such a ring, for whatever cause.</param>
/// <param name="Breaks">How often in which way, by the names of <see cref="RingError"/>; only those that happened.</param>
public sealed record TrafficInfo(
    long Frames,
    long Bytes,
    long Bursts,
    long Kicks,
    long Calls,
    long Dropped,
    DropInfo Drops,
    long Broken,
    IReadOnlyDictionary<string, long> Breaks)
{
    /// <summary>The counters of a ring, or of several.</summary>
    /// <param name="counters">The counters.</param>
    /// <returns>What they say now.</returns>
    public static TrafficInfo Of(NetQueueCounters counters)
    {
        ArgumentNullException.ThrowIfNull(counters);
        return new TrafficInfo(
            counters.Frames,
            counters.Bytes,
            counters.Bursts,
            counters.Kicks,
            counters.Calls,
            counters.Dropped,
            new DropInfo(
                counters.DroppedDisabled,
                counters.DroppedLength,
                counters.DroppedHeader,
                counters.DroppedTooLarge,
                counters.DroppedMtu,
                counters.DroppedOffload,
                counters.DroppedNoBuffer),
            counters.Broken,
            Enum.GetValues<RingError>().Where(e => counters.BrokenBy(e) != 0).ToDictionary(e => e.ToString(), counters.BrokenBy));
    }
}

/// <summary>Frames dropped, by cause.</summary>
/// <param name="Disabled">The ring was disabled, or the port takes nothing (txonly).</param>
/// <param name="Length">Too short or too long to be a frame.</param>
/// <param name="Header">The header asks for what cannot be done.</param>
/// <param name="TooLarge">Larger than the driver's buffers.</param>
/// <param name="Mtu">Larger than the MTU that the driver was told.</param>
/// <param name="Offload">Segments that the driver does not take.</param>
/// <param name="NoBuffer">No buffer in time, no guest, or no peer.</param>
public sealed record DropInfo(long Disabled, long Length, long Header, long TooLarge, long Mtu, long Offload, long NoBuffer);

/// <summary>One ring of a port.</summary>
/// <param name="Index">Its number: even ones receive, odd ones transmit.</param>
/// <param name="State"><c>stopped</c>, <c>disabled</c>, <c>running</c>, or <c>broken</c>.</param>
/// <param name="Size">Entries, or 0 while it is stopped.</param>
/// <param name="Error">What the driver did wrong, or null.</param>
/// <param name="Traffic">What happened on it, over all sessions.</param>
public sealed record RingInfo(int Index, string State, int Size, string? Error, TrafficInfo Traffic)
{
    internal static RingInfo Of(NetPort port, int index)
    {
        // Nothing of the ring's memory is looked at, only what was kept of it.
        NetQueue? queue = port.Ring(index);
        RingError error = queue?.Error ?? RingError.None;
        string state = queue is null ? "stopped" : error != RingError.None ? "broken" : queue.Ring.Enabled ? "running" : "disabled";
        return new RingInfo(
            index,
            state,
            queue?.Ring.Size ?? 0,
            error == RingError.None ? null : $"{error} at {queue!.ErrorPosition}",
            TrafficInfo.Of(port.Counters[index]));
    }
}
