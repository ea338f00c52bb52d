namespace Vfio.VhostUser;

/// <summary>By a message (VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS).</summary>
internal sealed class InbandCall(BackendChannel channel, BackendRequest request, int index) : VringCall
{
    public override bool TrySignal() => channel.TrySend(request, new VringState { Index = (uint)index });
}
