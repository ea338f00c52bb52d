using Vfio.Virtio;

namespace Vfio.VhostUser.Benchmarks;

/// <summary>The control, frozen: says that nobody uses a translation any more without having looked. Never mend this.</summary>
internal sealed class ImpatientDevice(IVhostUserDevice port) : IVhostUserDevice
{
    public VirtioFeatures Features => port.Features;

    public ProtocolFeatures ProtocolFeatures => port.ProtocolFeatures;

    public int RingCount => port.RingCount;

    public int QueueNumber => port.QueueNumber;

    public bool TryReadConfig(int offset, Span<byte> bytes) => port.TryReadConfig(offset, bytes);

    public bool TrySetMtu(ulong mtu) => port.TrySetMtu(mtu);

    public void StartRing(VringConfiguration ring) => port.StartRing(ring);

    public RingPosition StopRing(int index) => port.StopRing(index);

    public void AwaitQuiescence()
    {
    }

    public void KickRing(int index) => port.KickRing(index);
}
