using System.Runtime.InteropServices;

namespace Vfio.VhostUser;

// Payloads as they lie on the wire (vhost-user specification, "Payload"), all in the machine's byte order. Sizes are proved by a test.

/// <summary>"A vring state description".</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VringState
{
    public uint Index;
    public uint Number;
}

/// <summary>"A vring address description".</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VringAddresses
{
    /// <summary>VHOST_VRING_F_LOG: writes to the used ring are logged.</summary>
    public const uint FlagLog = 1;

    public uint Index;
    public uint Flags;
    public FrontendAddress Descriptor;
    public FrontendAddress Used;
    public FrontendAddress Available;
    public GuestPhysicalAddress Log;
}

/// <summary>One of the regions in "Memory regions description".</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct RegionDescription
{
    public GuestPhysicalAddress GuestAddress;
    public ulong Size;
    public FrontendAddress UserAddress;
    public ulong MmapOffset;
}

/// <summary>"Memory regions description" without its regions.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct MemoryTableHeader
{
    public uint RegionCount;
    public uint Padding;
}

/// <summary>"Single memory region description".</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct SingleRegion
{
    public ulong Padding;
    public RegionDescription Region;
}

/// <summary>"Log description".</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct LogDescription
{
    public ulong Size;
    public ulong Offset;
}

/// <summary>"Virtio device config space" without its bytes.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct ConfigHeader
{
    public uint Offset;
    public uint Size;
    public uint Flags;
}

/// <summary>"Inflight description". Both QEMU and DPDK send it with its trailing padding, 24 bytes.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct InflightDescription
{
    public ulong MmapSize;
    public ulong MmapOffset;
    public ushort QueueCount;
    public ushort QueueSize;
}

/// <summary>"An IOTLB message"; <c>struct vhost_iotlb_msg</c> of <c>linux/vhost_types.h</c>.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct IotlbMessage
{
    public Iova Iova;
    public ulong Size;
    public FrontendAddress UserAddress;
    public byte Permissions;
    public IotlbMessageType Type;
}
