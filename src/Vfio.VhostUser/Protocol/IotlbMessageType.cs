namespace Vfio.VhostUser;

/// <summary>What an <see cref="IotlbMessage"/> says (vhost-user specification, "An IOTLB message").</summary>
internal enum IotlbMessageType : byte
{
    /// <summary>Nothing.</summary>
    None = 0,

    /// <summary>A translation is missing (back-end to front-end).</summary>
    Miss = 1,

    /// <summary>A translation (front-end to back-end).</summary>
    Update = 2,

    /// <summary>A translation is void (front-end to back-end).</summary>
    Invalidate = 3,

    /// <summary>A translation does not allow the access (back-end to front-end).</summary>
    AccessFail = 4,
}
