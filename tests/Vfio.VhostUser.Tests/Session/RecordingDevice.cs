using Vfio.Virtio;

namespace Vfio.VhostUser.Tests.Session;

/// <summary>A device that uses no ring and remembers which it was given.</summary>
internal sealed class RecordingDevice : IVhostUserDevice
{
    /// <summary>Translations that it keeps: few, so that tests can overrun them.</summary>
    public const int Capacity = 64;

    public VirtioFeatures Features => VirtioFeatures.Version1 | VirtioFeatures.RingPacked | VirtioFeatures.RingEventIdx
        | VirtioFeatures.RingIndirectDesc | VirtioFeatures.InOrder | VhostFeatures.LogAll | VirtioFeatures.AccessPlatform
        | (VirtioFeatures)(NetFeatures.MrgRxbuf | NetFeatures.Mq);

    public ProtocolFeatures ProtocolFeatures => (ProtocolFeatures)int.MaxValue;

    public int RingCount => 4;

    public int IotlbCapacity => Capacity;

    public int QueueNumber => 2;

    public Dictionary<int, VringConfiguration> Running { get; } = [];

    public List<VringConfiguration> Started { get; } = [];

    public ulong Mtu { get; private set; }

    public int Kicks { get; private set; }

    public int Waits { get; private set; }

    public bool TryReadConfig(int offset, Span<byte> bytes)
    {
        for (int i = 0; i < bytes.Length; i++)
        {
            bytes[i] = (byte)((offset + i) & 0xFF);
        }

        return offset + bytes.Length <= 256;
    }

    public bool TrySetMtu(ulong mtu)
    {
        Mtu = mtu is >= 68 and <= 65535 ? mtu : Mtu;
        return Mtu == mtu;
    }

    public void StartRing(VringConfiguration ring)
    {
        Running.Add(ring.Index, ring);
        Started.Add(ring);
    }

    public RingPosition StopRing(int index)
    {
        RingPosition position = StopsAt ?? Running[index].Position;
        Assert.IsTrue(Running.Remove(index));
        return position;
    }

    /// <summary>Where rings stop; null: where they started.</summary>
    public RingPosition? StopsAt { get; set; }

    public void KickRing(int index) => Kicks++;

    /// <summary>Whether a thread of the device is stuck, as far as the session can tell.</summary>
    public bool IsStuck { get; set; }

    // No thread of this device reads anything, so there is nobody to wait for.
    public void AwaitQuiescence() => Waits += IsStuck ? throw new TimeoutException("poller-7 has been in one batch for too long") : 1;
}
