using System.Diagnostics;
using System.Numerics;
using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.Service;

/// <summary>Operations on virtio network cards.</summary>
public static class CardOperations
{
    /// <summary>Bytes of the shortest test frame.</summary>
    public const int MinFrameSize = NumberedFrames.MinBytes;

    /// <summary>Says what a card is like.</summary>
    public static Operation<CardQuery, CardInfo> Info { get; } = new(
        "net.info", static json => json.CardQuery, static json => json.CardInfo, ShowInfo);

    /// <summary>Drives a card: takes frames, makes them, or sends them back. When it is cancelled it ends, and tells what it did.</summary>
    public static Operation<CardRequest, CardResult> Forward { get; } = new(
        "net.forward", static json => json.CardRequest, static json => json.CardResult, RunForward);

    private static CardInfo ShowInfo(Engine engine, CardQuery query, OperationContext context)
    {
        using CardSession session = CardSession.Open(engine, new CardRequest(query.Device) { Pool = query.Pool }, context);
        CardInfo info = Describe(query.Device, session.Card);
        session.EndedWell = true;
        return info;
    }

    private static CardResult RunForward(Engine engine, CardRequest request, OperationContext context)
    {
        Check(request);
        using CardSession session = CardSession.Open(engine, request, context);
        VirtioNetDevice card = session.Card;
        int longest = Math.Min(request.BufferSize - NetHeader.Bytes, card.Info.Mtu + VirtioNetDevice.MinFrameBytes);
        if (request.Mode is CardMode.TxOnly or CardMode.Echo && request.FrameSize > longest)
        {
            throw Invalid(request, $"frames of {request.FrameSize} bytes", $"the card's MTU and the buffers allow {longest}", "use smaller frames, or larger buffers");
        }

        CardInfo info = Describe(request.Device, card);
        var forwarder = new CardForwarder(card, request);
        long start = Stopwatch.GetTimestamp();
        forwarder.Run(context.Cancellation);
        double seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
        int unsent = card.CountUnsent();
        NetCounters counters = card.Counters;
        session.EndedWell = true;
        return new CardResult(
            info,
            session.PoolName,
            request.Mode,
            seconds,
            new CardTraffic(counters.Received, counters.ReceivedBytes),
            new CardTraffic(counters.Sent, counters.SentBytes),
            counters.Runts,
            unsent,
            counters.Notifications,
            forwarder.Check?.ToRecord());
    }

    private static CardInfo Describe(PciAddress device, VirtioNetDevice card) => new(
        device,
        card.Info.Mac?.ToString(),
        card.Info.Mtu,
        card.IsLinkUp,
        card.Info.ReceiveQueueSize,
        card.Info.TransmitQueueSize,
        card.Info.Features.ToString(),
        card.Info.NetFeatures.ToString());

    private static void Check(CardRequest request)
    {
        if (!Enum.IsDefined(request.Mode))
        {
            throw Invalid(request, $"mode {request.Mode}", "a card is driven by rxonly, txonly, io, macswap or echo", "choose one of them");
        }

        if (request.FrameSize is < MinFrameSize or > 65535)
        {
            throw Invalid(request, $"frames of {request.FrameSize} bytes", $"a test frame has {MinFrameSize} bytes at least", "choose another size");
        }

        if (request.QueueSize is < 2 or > RingAddresses.MaxSize || !BitOperations.IsPow2(request.QueueSize))
        {
            throw Invalid(request, $"queues of {request.QueueSize} entries", "a queue has a power of two from 2 to 32768", "choose another size");
        }

        if (request.BufferSize is < 128 or > 65536 || request.BufferSize % 64 != 0)
        {
            throw Invalid(request, $"buffers of {request.BufferSize} bytes", "a buffer has a multiple of 64 from 128 to 65536 bytes", "choose another size");
        }

        if (request.Duration is { } seconds && !(seconds > 0 && seconds <= TimeSpan.FromDays(1000).TotalSeconds))
        {
            throw Invalid(request, $"a duration of {seconds} s", "it has to be more than nothing", "choose another duration");
        }

        if (request.Count is <= 0)
        {
            throw Invalid(request, $"a count of {request.Count}", "it has to be 1 at least", "choose another count");
        }
    }

    private static LinuxException Invalid(CardRequest request, string what, string cause, string cure) =>
        new("net forward", Errno.EINVAL, $"{request.Device}, {what}", cause, cure);
}
