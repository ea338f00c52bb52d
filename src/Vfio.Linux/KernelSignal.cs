using System.Runtime.InteropServices;

namespace Vfio.Linux;

/// <summary>Signals eventfds that a peer holds too, without ever waiting. write(2) cannot promise that: the peer may fill the counter
/// and clear O_NONBLOCK, which belongs to the open file and not to a descriptor, and write takes no RWF_NOWAIT here. So the kernel
/// signals, as its own drivers do: a read of nothing, submitted with the eventfd to tell (IOCB_FLAG_RESFD).</summary>
/// <remarks>Thread-safe. One context for the process: it is given back when that ends.</remarks>
internal static unsafe class KernelSignal
{
    // Of fs.aio-max-nr, 65536 for the whole machine. Completions that nobody looked at fill it up, so they are taken out in time.
    private const int Room = 512;
    private const int TakeOutEvery = 128;

    private static readonly FileDescriptor? Nothing = MakeFile();
    private static readonly nint Context = Nothing is null ? 0 : SetUp();
    private static int _sinceTakenOut;

    /// <summary>False where the kernel or a filter of system calls does not have it: only write(2) is left.</summary>
    public static bool IsAvailable => Context != 0;

    /// <summary>Adds 1 to the counter; a full one stays full, which is a signal all the same.</summary>
    /// <returns><see cref="Errno.None"/>, or why not: EAGAIN and ENOMEM pass.</returns>
    public static Errno Send(int eventfd)
    {
        var request = new iocb
        {
            aio_lio_opcode = Aio.IOCB_CMD_PREAD,
            aio_fildes = (uint)Nothing!.Number,
            aio_flags = Aio.IOCB_FLAG_RESFD,
            aio_resfd = (uint)eventfd,
        };
        if (Interlocked.Increment(ref _sinceTakenOut) >= TakeOutEvery)
        {
            TakeOut();
        }

        Errno errno = Submit(&request);
        if (errno == Errno.EAGAIN)
        {
            TakeOut();
            errno = Submit(&request);
        }

        return errno;
    }

    // SAFETY: the kernel copies the request, a local of the caller's, before it returns; a read of nothing is done by then, too
    // (fs/aio.c, aio_read), and writes nowhere.
    private static Errno Submit(iocb* request) =>
        LibC.syscall(Unistd.__NR_io_submit, Context, 1, (nint)(&request), 0, 0, 0) == 1 ? Errno.None : (Errno)LibC.errno;

    private static void TakeOut()
    {
        Interlocked.Exchange(ref _sinceTakenOut, 0);
        io_event* events = stackalloc io_event[TakeOutEvery];
        // No time-out is needed: at least 0 of them are waited for.
        // SAFETY: room for that many.
        while (LibC.syscall(Unistd.__NR_io_getevents, Context, 0, TakeOutEvery, (nint)events, 0, 0) == TakeOutEvery)
        {
        }
    }

    // SAFETY: the kernel writes one word, a local.
    private static nint SetUp()
    {
        nint context = 0;
        return RuntimeInformation.ProcessArchitecture == Architecture.X64
            && LibC.syscall(Unistd.__NR_io_setup, Room, (nint)(&context), 0, 0, 0, 0) == 0 ? context : 0;
    }

    private static FileDescriptor? MakeFile()
    {
        int result = LibC.memfd_create("vfiopin-nothing", Mman.MFD_CLOEXEC);
        return result < 0 ? null : new FileDescriptor(LinuxKernel.Instance, result);
    }
}
