namespace Vfio.VhostUser;

/// <summary>Protocol features, by bit (vhost-user specification, "Protocol features").</summary>
[Flags]
public enum ProtocolFeatures
{
    /// <summary>None.</summary>
    None = 0,

    /// <summary>More than one queue pair.</summary>
    Mq = 1 << 0,

    /// <summary>The dirty log is shared memory.</summary>
    LogShmfd = 1 << 1,

    /// <summary>SEND_RARP.</summary>
    Rarp = 1 << 2,

    /// <summary>An answer to any message that asks for one.</summary>
    ReplyAck = 1 << 3,

    /// <summary>NET_SET_MTU.</summary>
    NetMtu = 1 << 4,

    /// <summary>A channel for requests of the back-end.</summary>
    BackendReq = 1 << 5,

    /// <summary>SET_VRING_ENDIAN.</summary>
    CrossEndian = 1 << 6,

    /// <summary>Crypto sessions.</summary>
    CryptoSession = 1 << 7,

    /// <summary>Postcopy migration.</summary>
    PageFault = 1 << 8,

    /// <summary>Configuration space is read and written by messages.</summary>
    Config = 1 << 9,

    /// <summary>The back-end may send descriptors.</summary>
    BackendSendFd = 1 << 10,

    /// <summary>Doorbells may be mapped into the guest.</summary>
    HostNotifier = 1 << 11,

    /// <summary>Requests in flight are recorded in shared memory.</summary>
    InflightShmfd = 1 << 12,

    /// <summary>RESET_DEVICE.</summary>
    ResetDevice = 1 << 13,

    /// <summary>Kicks and calls as messages.</summary>
    InbandNotifications = 1 << 14,

    /// <summary>Memory regions are added and removed one at a time.</summary>
    ConfigureMemSlots = 1 << 15,

    /// <summary>Device status is passed on.</summary>
    Status = 1 << 16,
}
