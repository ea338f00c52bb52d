namespace Vfio.Virtio;

/// <summary>What a network device's driver has done since it was opened.</summary>
/// <param name="Received">Frames handed out.</param>
/// <param name="ReceivedBytes">Bytes of them.</param>
/// <param name="Runts">Frames that came in too short to be one, and were dropped.</param>
/// <param name="Sent">Frames that the device took.</param>
/// <param name="SentBytes">Bytes of them.</param>
/// <param name="Notifications">Doorbells rung.</param>
public readonly record struct NetCounters(
    long Received,
    long ReceivedBytes,
    long Runts,
    long Sent,
    long SentBytes,
    long Notifications);
