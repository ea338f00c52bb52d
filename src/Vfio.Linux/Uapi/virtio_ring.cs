using System.Runtime.InteropServices;

namespace Vfio.Linux;

[Header("linux/virtio_ring.h")]
internal static class virtio_ring
{
    public const ushort VRING_DESC_F_NEXT = 1;
    public const ushort VRING_DESC_F_WRITE = 2;
    public const ushort VRING_DESC_F_INDIRECT = 4;
    public const int VRING_PACKED_DESC_F_AVAIL = 7;
    public const int VRING_PACKED_DESC_F_USED = 15;
    public const ushort VRING_USED_F_NO_NOTIFY = 1;
    public const ushort VRING_AVAIL_F_NO_INTERRUPT = 1;
    public const ushort VRING_PACKED_EVENT_FLAG_ENABLE = 0;
    public const ushort VRING_PACKED_EVENT_FLAG_DISABLE = 1;
    public const ushort VRING_PACKED_EVENT_FLAG_DESC = 2;
    public const int VRING_PACKED_EVENT_F_WRAP_CTR = 15;
    public const int VIRTIO_RING_F_INDIRECT_DESC = 28;
    public const int VIRTIO_RING_F_EVENT_IDX = 29;
    public const int VRING_AVAIL_ALIGN_SIZE = 2;
    public const int VRING_USED_ALIGN_SIZE = 4;
    public const int VRING_DESC_ALIGN_SIZE = 16;
}

[Header("linux/virtio_ring.h")]
[StructLayout(LayoutKind.Sequential)]
internal struct vring_desc
{
    public ulong addr;
    public uint len;
    public ushort flags;
    public ushort next;
}

[Header("linux/virtio_ring.h")]
[StructLayout(LayoutKind.Sequential)]
internal struct vring_used_elem
{
    public uint id;
    public uint len;
}

[Header("linux/virtio_ring.h")]
[StructLayout(LayoutKind.Sequential)]
internal struct vring_packed_desc
{
    public ulong addr;
    public uint len;
    public ushort id;
    public ushort flags;
}

[Header("linux/virtio_ring.h")]
[StructLayout(LayoutKind.Sequential)]
internal struct vring_packed_desc_event
{
    public ushort off_wrap;
    public ushort flags;
}
