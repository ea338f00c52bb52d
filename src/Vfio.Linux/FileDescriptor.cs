using System.Runtime.InteropServices;

namespace Vfio.Linux;

/// <summary>Owns one file descriptor of one kernel, real or simulated; disposing closes it.</summary>
/// <remarks>Thread-safe as every <see cref="SafeHandle"/> is. (<c>SafeFileHandle</c> is sealed and knows only the real kernel.)</remarks>
public sealed class FileDescriptor : SafeHandle
{
    private readonly IKernel _kernel;

    /// <summary>Takes ownership of <paramref name="descriptor"/>.</summary>
    /// <param name="kernel">The kernel that it belongs to.</param>
    /// <param name="descriptor">The descriptor, zero or more.</param>
    public FileDescriptor(IKernel kernel, int descriptor)
        : base(-1, ownsHandle: true)
    {
        ArgumentNullException.ThrowIfNull(kernel);
        ArgumentOutOfRangeException.ThrowIfNegative(descriptor);
        _kernel = kernel;
        SetHandle(descriptor);
    }

    /// <inheritdoc/>
    public override bool IsInvalid => handle < 0;

    /// <summary>The number, for a call; valid while this object is not disposed.</summary>
    /// <exception cref="ObjectDisposedException">It was disposed.</exception>
    public int Number
    {
        get
        {
            ObjectDisposedException.ThrowIf(IsClosed, this);
            return (int)handle;
        }
    }

    /// <summary>Opens <paramref name="path"/>.</summary>
    /// <param name="kernel">The kernel to ask.</param>
    /// <param name="path">The file.</param>
    /// <param name="flags">open(2) flags; O_CLOEXEC is added.</param>
    /// <returns>The open descriptor.</returns>
    /// <exception cref="LinuxException">The kernel refused.</exception>
    public static FileDescriptor Open(IKernel kernel, string path, int flags)
    {
        ArgumentNullException.ThrowIfNull(kernel);
        int result = kernel.Open(path, flags);
        return result < 0
            ? throw new LinuxException("open", (Errno)(-result), path)
            : new FileDescriptor(kernel, result);
    }

    /// <summary>Another descriptor of this process for the same open file, close-on-exec.</summary>
    /// <returns>The descriptor.</returns>
    /// <exception cref="LinuxException">fcntl(2) failed: EBADF where there is no such descriptor.</exception>
    public FileDescriptor Duplicate()
    {
        int result = LibC.fcntl(Number, Fcntl.F_DUPFD_CLOEXEC, 0);
        return result < 0
            ? throw new LinuxException("fcntl(F_DUPFD_CLOEXEC)", (Errno)LibC.errno, $"descriptor {Number}")
            : new FileDescriptor(LinuxKernel.Instance, result);
    }

    /// <inheritdoc/>
    protected override bool ReleaseHandle() => _kernel.Close((int)handle) >= 0;
}
