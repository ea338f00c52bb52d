namespace Vfio.Linux;

/// <summary>The running kernel.</summary>
public sealed unsafe class LinuxKernel : IKernel
{
    private LinuxKernel()
    {
    }

    /// <summary>The one instance; it has no state.</summary>
    public static LinuxKernel Instance { get; } = new();

    /// <inheritdoc/>
    public int Open(string path, int flags)
    {
        int result;
        do
        {
            result = LibC.open(path, flags | Fcntl.O_CLOEXEC, 0);
        }
        while (result < 0 && LibC.errno == (int)Errno.EINTR);
        return result < 0 ? -LibC.errno : result;
    }

    /// <inheritdoc/>
    // Never repeated: Linux has released the descriptor even when close(2) says EINTR.
    public int Close(int descriptor) => LibC.close(descriptor) < 0 ? -LibC.errno : 0;

    /// <inheritdoc/>
    public int Ioctl(int descriptor, uint request, void* argument) => NativeCode.vfiopin_ioctl(descriptor, request, argument);

    /// <inheritdoc/>
    public nint Mmap(nuint length, int protection, int flags, int descriptor, long offset)
    {
        nint address = LibC.mmap(0, length, protection, flags, descriptor, offset);
        return address == -1 ? -LibC.errno : address;
    }

    /// <inheritdoc/>
    public int Munmap(nint address, nuint length) => LibC.munmap(address, length) < 0 ? -LibC.errno : 0;

    /// <inheritdoc/>
    public nint Pread(int descriptor, Span<byte> buffer, long offset)
    {
        // SAFETY: the span is pinned for the call and its own length bounds it.
        fixed (byte* pointer = buffer)
        {
            nint result;
            do
            {
                result = LibC.pread(descriptor, pointer, (nuint)buffer.Length, offset);
            }
            while (result < 0 && LibC.errno == (int)Errno.EINTR);
            return result < 0 ? -LibC.errno : result;
        }
    }

    /// <inheritdoc/>
    public nint Pwrite(int descriptor, ReadOnlySpan<byte> buffer, long offset)
    {
        // SAFETY: the span is pinned for the call and its own length bounds it.
        fixed (byte* pointer = buffer)
        {
            nint result;
            do
            {
                result = LibC.pwrite(descriptor, pointer, (nuint)buffer.Length, offset);
            }
            while (result < 0 && LibC.errno == (int)Errno.EINTR);
            return result < 0 ? -LibC.errno : result;
        }
    }
}
