namespace Vfio.VhostUser;

/// <summary>Requests of a front-end, by number (vhost-user specification, "Front-end message types").</summary>
internal enum FrontendRequest : uint
{
    /// <summary>Not a request.</summary>
    None = 0,

    /// <summary>The virtio features on offer.</summary>
    GetFeatures = 1,

    /// <summary>The virtio features chosen.</summary>
    SetFeatures = 2,

    /// <summary>A session starts.</summary>
    SetOwner = 3,

    /// <summary>Deprecated; disables all rings.</summary>
    ResetOwner = 4,

    /// <summary>All memory regions at once.</summary>
    SetMemTable = 5,

    /// <summary>Where dirty pages are logged.</summary>
    SetLogBase = 6,

    /// <summary>An eventfd that says the log changed.</summary>
    SetLogFd = 7,

    /// <summary>Size of a ring.</summary>
    SetVringNum = 8,

    /// <summary>Addresses of a ring.</summary>
    SetVringAddr = 9,

    /// <summary>Where a ring starts.</summary>
    SetVringBase = 10,

    /// <summary>Stops a ring and asks where it stopped.</summary>
    GetVringBase = 11,

    /// <summary>The eventfd that says buffers were added; starts the ring.</summary>
    SetVringKick = 12,

    /// <summary>The eventfd to signal when buffers were used.</summary>
    SetVringCall = 13,

    /// <summary>The eventfd to signal on an error.</summary>
    SetVringErr = 14,

    /// <summary>The protocol features on offer.</summary>
    GetProtocolFeatures = 15,

    /// <summary>The protocol features chosen.</summary>
    SetProtocolFeatures = 16,

    /// <summary>How many rings there can be.</summary>
    GetQueueNum = 17,

    /// <summary>Enables or disables a ring.</summary>
    SetVringEnable = 18,

    /// <summary>Announce a guest after migration.</summary>
    SendRarp = 19,

    /// <summary>The MTU.</summary>
    NetSetMtu = 20,

    /// <summary>The socket for requests of the back-end.</summary>
    SetBackendReqFd = 21,

    /// <summary>Translations: update and invalidate.</summary>
    IotlbMsg = 22,

    /// <summary>Byte order of a legacy ring.</summary>
    SetVringEndian = 23,

    /// <summary>Read configuration space.</summary>
    GetConfig = 24,

    /// <summary>Write configuration space.</summary>
    SetConfig = 25,

    /// <summary>Ask for a buffer that records requests in flight.</summary>
    GetInflightFd = 31,

    /// <summary>Give it back, after a restart with what was in flight.</summary>
    SetInflightFd = 32,

    /// <summary>Back to the initial state.</summary>
    ResetDevice = 34,

    /// <summary>A kick without an eventfd.</summary>
    VringKick = 35,

    /// <summary>How many memory regions there can be.</summary>
    GetMaxMemSlots = 36,

    /// <summary>One more memory region.</summary>
    AddMemReg = 37,

    /// <summary>One memory region less.</summary>
    RemMemReg = 38,

    /// <summary>Device status of the driver.</summary>
    SetStatus = 39,

    /// <summary>Device status of the device.</summary>
    GetStatus = 40,
}
