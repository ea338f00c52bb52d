using System.Runtime.InteropServices;
using Vfio.Linux;

namespace Vfio.Virtio;

/// <summary>A descriptor of the split layout (virtio 1.3, 2.7.5 "The Virtqueue Descriptor Table"), as a copy: the one in the
/// ring belongs to the driver, which may change it at any time.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
internal readonly struct Descriptor(ulong address, uint length, ushort flags, ushort next)
{
    public const int Bytes = 16;

    public readonly ulong Address = address;
    public readonly uint Length = length;
    public readonly ushort Flags = flags;
    public readonly ushort Next = next;

    public bool HasNext => (Flags & virtio_ring.VRING_DESC_F_NEXT) != 0;

    public bool IsWritable => (Flags & virtio_ring.VRING_DESC_F_WRITE) != 0;

    public bool IsIndirect => (Flags & virtio_ring.VRING_DESC_F_INDIRECT) != 0;
}
