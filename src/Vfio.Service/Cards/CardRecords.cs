namespace Vfio.Service;

/// <summary>What <c>net.forward</c> does with a network card, seen from its driver.</summary>
public enum CardMode
{
    /// <summary>Takes frames, checks those that a test sent, and drops them.</summary>
    RxOnly,

    /// <summary>Sends numbered test frames.</summary>
    TxOnly,

    /// <summary>Sends back what comes in.</summary>
    Io,

    /// <summary>As <see cref="Io"/>, with source and destination MAC address exchanged.</summary>
    MacSwap,

    /// <summary>Sends numbered test frames and checks that they come back.</summary>
    Echo,
}

/// <summary>Names a network card: the parameters of <c>net.info</c>.</summary>
/// <param name="Device">The device, on vfio-pci.</param>
public sealed record CardQuery(PciAddress Device)
{
    /// <summary>The pool to use, or null for one that the device reaches, else one made for the call.</summary>
    public string? Pool { get; init; }
}

/// <summary>What to do with a network card: the parameters of <c>net.forward</c>.</summary>
/// <param name="Device">The device, on vfio-pci.</param>
public sealed record CardRequest(PciAddress Device)
{
    /// <summary>The pool to use, or null for one that the device reaches, else one made for the call.</summary>
    public string? Pool { get; init; }

    /// <summary>Pages of a pool that is made for the call, by name; the first that can be had.</summary>
    public IReadOnlyList<string> PageSizes { get; init; } = ["2MiB", "thp", "4KiB"];

    /// <summary>What to do.</summary>
    public CardMode Mode { get; init; } = CardMode.Io;

    /// <summary>How long, in seconds; null until cancelled, or until <see cref="Count"/> is reached.</summary>
    public double? Duration { get; init; }

    /// <summary>Frames after which to end: sent ones where the mode makes frames, else received ones; null for no end.</summary>
    public long? Count { get; init; }

    /// <summary>Bytes of a test frame.</summary>
    public int FrameSize { get; init; } = 64;

    /// <summary>Entries of each queue at most, a power of two.</summary>
    public int QueueSize { get; init; } = 256;

    /// <summary>Bytes of a buffer, a multiple of 64.</summary>
    public int BufferSize { get; init; } = 2048;
}

/// <summary>What a network card is like.</summary>
/// <param name="Device">The device.</param>
/// <param name="Mac">Its address, or null where it does not tell.</param>
/// <param name="Mtu">Bytes of the largest payload of a frame.</param>
/// <param name="LinkUp">Whether the link is up.</param>
/// <param name="ReceiveQueueSize">Entries of the receive queue.</param>
/// <param name="TransmitQueueSize">Entries of the transmit queue.</param>
/// <param name="Features">What was negotiated of the transport and the ring.</param>
/// <param name="NetFeatures">What was negotiated of the network device.</param>
public sealed record CardInfo(
    PciAddress Device,
    string? Mac,
    int Mtu,
    bool LinkUp,
    int ReceiveQueueSize,
    int TransmitQueueSize,
    string Features,
    string NetFeatures);

/// <summary>Frames of one direction.</summary>
/// <param name="Frames">Frames.</param>
/// <param name="Bytes">Their bytes, without the virtio header.</param>
public sealed record CardTraffic(long Frames, long Bytes);

/// <summary>What became of the test frames that came in.</summary>
/// <param name="Good">As they were sent, byte for byte.</param>
/// <param name="Wrong">With other bytes, another length, or a number that was there before.</param>
/// <param name="Missing">Numbers that never came.</param>
/// <param name="Other">Frames that are no test frames.</param>
public sealed record CardCheck(long Good, long Wrong, long Missing, long Other);

/// <summary>What <c>net.forward</c> did.</summary>
/// <param name="Card">The card.</param>
/// <param name="Pool">The pool that frames went through, or null for one made for the call.</param>
/// <param name="Mode">What was done.</param>
/// <param name="Seconds">How long it took.</param>
/// <param name="Received">Frames that came in.</param>
/// <param name="Sent">Frames that the device took.</param>
/// <param name="Runts">Frames that came in too short to be one, and were dropped.</param>
/// <param name="Unsent">Frames given to the device that it had not finished with at the end.</param>
/// <param name="Notifications">Doorbells rung.</param>
/// <param name="Check">What became of test frames that came in; null where the mode does not look at them.</param>
public sealed record CardResult(
    CardInfo Card,
    string? Pool,
    CardMode Mode,
    double Seconds,
    CardTraffic Received,
    CardTraffic Sent,
    long Runts,
    int Unsent,
    long Notifications,
    CardCheck? Check);
