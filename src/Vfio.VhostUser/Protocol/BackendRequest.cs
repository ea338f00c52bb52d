namespace Vfio.VhostUser;

/// <summary>Requests of a back-end, by number (vhost-user specification, "Back-end message types").</summary>
internal enum BackendRequest : uint
{
    /// <summary>Not a request.</summary>
    None = 0,

    /// <summary>A translation is missing, or does not allow the access.</summary>
    IotlbMsg = 1,

    /// <summary>Configuration space changed.</summary>
    ConfigChange = 2,

    /// <summary>Map a doorbell into the guest.</summary>
    VringHostNotifier = 3,

    /// <summary>A call without an eventfd.</summary>
    VringCall = 4,

    /// <summary>An error without an eventfd.</summary>
    VringErr = 5,
}
