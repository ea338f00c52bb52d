using System.Runtime.InteropServices;

namespace Vfio.Linux;

[Header("linux/virtio_blk.h")]
internal static class virtio_blk
{
    public const int VIRTIO_BLK_F_SIZE_MAX = 1;
    public const int VIRTIO_BLK_F_SEG_MAX = 2;
    public const int VIRTIO_BLK_F_RO = 5;
    public const int VIRTIO_BLK_F_BLK_SIZE = 6;
    public const int VIRTIO_BLK_F_FLUSH = 9;
    public const int VIRTIO_BLK_F_TOPOLOGY = 10;
    public const uint VIRTIO_BLK_T_IN = 0;
    public const uint VIRTIO_BLK_T_OUT = 1;
    public const uint VIRTIO_BLK_T_FLUSH = 4;
    public const byte VIRTIO_BLK_S_OK = 0;
    public const byte VIRTIO_BLK_S_IOERR = 1;
    public const byte VIRTIO_BLK_S_UNSUPP = 2;
}

[Header("linux/virtio_blk.h")]
[StructLayout(LayoutKind.Sequential)]
internal struct virtio_blk_outhdr
{
    public uint type;
    public uint ioprio;
    public ulong sector;
}
