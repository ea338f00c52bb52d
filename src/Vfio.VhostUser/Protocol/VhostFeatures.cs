using Vfio.Virtio;

namespace Vfio.VhostUser;

/// <summary>Feature bits that mean something between front-end and back-end only, over the same 64 bits as <see cref="VirtioFeatures"/>.</summary>
public static class VhostFeatures
{
    /// <summary>VHOST_F_LOG_ALL: writes to guest memory are logged (<c>linux/vhost_types.h</c>).</summary>
    public const VirtioFeatures LogAll = (VirtioFeatures)(1ul << 26);

    /// <summary>VHOST_USER_F_PROTOCOL_FEATURES: there are protocol features (vhost-user specification, "Communication").</summary>
    public const VirtioFeatures ProtocolFeatures = (VirtioFeatures)(1ul << 30);
}
