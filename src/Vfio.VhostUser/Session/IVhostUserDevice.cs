using Vfio.Virtio;

namespace Vfio.VhostUser;

/// <summary>A device behind a vhost-user session: what it offers, and what it does with rings. The session does everything
/// that has to do with the protocol.</summary>
/// <remarks>Called by the session's thread, one call at a time; <see cref="AwaitQuiescence"/> also, in its place, by a poller that takes the
/// front-end's answers.</remarks>
public interface IVhostUserDevice
{
    /// <summary>The virtio features on offer, with the bits of the device type.</summary>
    VirtioFeatures Features { get; }

    /// <summary>Protocol features that make sense for this device; the session offers those of them that it has.</summary>
    ProtocolFeatures ProtocolFeatures { get; }

    /// <summary>How many rings it has, at most 256.</summary>
    int RingCount { get; }

    /// <summary>What GET_QUEUE_NUM says: rings, or pairs of them.</summary>
    int QueueNumber { get; }

    /// <summary>Translations that the device's IOTLB holds, if it offers VIRTIO_F_ACCESS_PLATFORM.</summary>
    int IotlbCapacity => DeviceIotlb.DefaultCapacity;

    /// <summary>Copies a part of configuration space.</summary>
    /// <param name="offset">Where it starts, in bytes.</param>
    /// <param name="bytes">Where it goes.</param>
    /// <returns>False when it reaches beyond the end.</returns>
    bool TryReadConfig(int offset, Span<byte> bytes);

    /// <summary>Takes the MTU that the guest was told.</summary>
    /// <param name="mtu">Bytes of the largest frame without its header.</param>
    /// <returns>False when the device cannot have it.</returns>
    bool TrySetMtu(ulong mtu);

    /// <summary>Starts to use a ring that is stopped.</summary>
    /// <param name="ring">The ring.</param>
    void StartRing(VringConfiguration ring);

    /// <summary>Stops to use a ring that was started. When this returns the driver was shown all that was used, and no thread touches the
    /// ring, the guest's memory on its behalf, or its descriptors.</summary>
    /// <param name="index">Which ring.</param>
    /// <returns>Where it stopped.</returns>
    /// <exception cref="TimeoutException">A thread is stuck in it: nothing may be unmapped.</exception>
    RingPosition StopRing(int index);

    /// <summary>Returns once no thread of the device can still use a translation, or memory that it led to, from before the call.</summary>
    /// <exception cref="TimeoutException">A thread is stuck; the message names it.</exception>
    void AwaitQuiescence();

    /// <summary>Looks at a ring now, as if it had been kicked.</summary>
    /// <param name="index">Which ring; started.</param>
    void KickRing(int index);
}
