using System.Runtime.InteropServices;

namespace Vfio.VhostUser;

/// <summary>The 12 bytes before each message (vhost-user specification, "Header").</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct MessageHeader
{
    public const uint VersionMask = 3;
    public const uint Version = 1;
    public const uint Reply = 1 << 2;
    public const uint NeedReply = 1 << 3;

    /// <summary>A <see cref="FrontendRequest"/> or <see cref="BackendRequest"/>.</summary>
    public uint Request;

    public uint Flags;

    /// <summary>Bytes of payload that follow.</summary>
    public uint Size;
}
