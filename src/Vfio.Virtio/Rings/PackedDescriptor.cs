using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Vfio.Linux;

namespace Vfio.Virtio;

/// <summary>A descriptor of the packed layout, as a copy (virtio 1.3, 2.8.13 "Virtqueue descriptor format"). Length, id and
/// flags are the upper 8 bytes and travel as one: whoever sees the flags sees the other two.</summary>
/// <param name="Address">Where the buffer is for the device.</param>
/// <param name="Control">Length in bits 0 to 31, buffer id in 32 to 47, flags in 48 to 63.</param>
[StructLayout(LayoutKind.Sequential)]
public readonly record struct PackedDescriptor(BusAddress Address, ulong Control)
{
    internal const ushort AvailFlag = 1 << virtio_ring.VRING_PACKED_DESC_F_AVAIL;
    internal const ushort UsedFlag = 1 << virtio_ring.VRING_PACKED_DESC_F_USED;

    /// <summary>Bytes of the buffer; in a used descriptor, bytes written.</summary>
    public uint Length => (uint)(Control & 0xFFFF_FFFF);

    /// <summary>The buffer id; valid in the last descriptor of a chain.</summary>
    public ushort Id => (ushort)((Control >> 32) & 0xFFFF);

    /// <summary>The flags.</summary>
    public ushort Flags => (ushort)(Control >> 48);

    internal bool HasNext => (Flags & virtio_ring.VRING_DESC_F_NEXT) != 0;

    internal bool IsWritable => (Flags & virtio_ring.VRING_DESC_F_WRITE) != 0;

    internal bool IsIndirect => (Flags & virtio_ring.VRING_DESC_F_INDIRECT) != 0;

    internal static ulong MakeControl(uint length, ushort id, ushort flags) =>
        length | ((ulong)id << 32) | ((ulong)flags << 48);

    // virtio 1.3, 2.8.1 "Driver and Device Ring Wrap Counters": available is AVAIL equal to the driver's wrap counter and USED
    // its inverse; used is both equal to the device's.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static bool IsAvailable(ulong control, bool wrap) =>
        ((control >> 48) & (AvailFlag | UsedFlag)) == (wrap ? AvailFlag : (ulong)UsedFlag);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static bool IsUsed(ulong control, bool wrap) =>
        ((control >> 48) & (AvailFlag | UsedFlag)) == (wrap ? (ulong)(AvailFlag | UsedFlag) : 0);
}
