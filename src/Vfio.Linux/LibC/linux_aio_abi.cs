using System.Runtime.InteropServices;

namespace Vfio.Linux;

// io_setup(2), io_submit(2), io_getevents(2), which glibc has no functions for: by syscall(2).
[Header("linux/aio_abi.h")]
[StructLayout(LayoutKind.Sequential)]
internal struct iocb
{
    public ulong aio_data;
    public uint aio_key;
    public int aio_rw_flags;
    public ushort aio_lio_opcode;
    public short aio_reqprio;
    public uint aio_fildes;
    public ulong aio_buf;
    public ulong aio_nbytes;
    public long aio_offset;
    public ulong aio_reserved2;
    public uint aio_flags;
    public uint aio_resfd;
}

[Header("linux/aio_abi.h")]
[StructLayout(LayoutKind.Sequential)]
internal struct io_event
{
    public ulong data;
    public ulong obj;
    public long res;
    public long res2;
}

[Header("linux/aio_abi.h")]
internal static class Aio
{
    public const int IOCB_CMD_PREAD = 0;
    public const int IOCB_FLAG_RESFD = 1;
}
