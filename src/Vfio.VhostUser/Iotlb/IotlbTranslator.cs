using System.Runtime.CompilerServices;
using Vfio.Virtio;

namespace Vfio.VhostUser;

/// <summary>Translates IOVAs by a queue's view of the IOTLB: the case with VIRTIO_F_ACCESS_PLATFORM.</summary>
internal readonly struct IotlbTranslator(IotlbView view) : ITranslator
{
    private readonly IotlbView _view = view;
    private readonly IotlbLastHits _lastHits = view.LastHits;

    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public TranslationStatus Translate(
        BusAddress address, uint length, DeviceAccess access, out HostAddress host, out uint usable) =>
        _view.Translate(
            new Iova(address.Value), length, access == DeviceAccess.Write ? DmaAccess.Write : DmaAccess.Read, out host, out usable);

    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public bool TryTranslate(BusAddress address, uint length, DeviceAccess access, out HostAddress host) =>
        _lastHits.TryTranslate(new Iova(address.Value), length, access == DeviceAccess.Write ? DmaAccess.Write : DmaAccess.Read, out host);

    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void CountAtHand(int times) => _view.CountAtHand(times);
}
