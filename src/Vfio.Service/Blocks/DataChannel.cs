using Vfio.Linux;

namespace Vfio.Service;

/// <summary>Where the bytes of a transfer go to or come from: a file, or a Unix stream socket whose other end the caller holds.</summary>
/// <remarks>A caller opens the file itself, with its own rights, and hands the descriptor over. A pipe is not taken: a write to
/// one cannot be ended, while a socket can be shut down.</remarks>
internal sealed class DataChannel : IDisposable
{
    private readonly FileDescriptor _file;
    private readonly UnixSocket? _socket;
    private readonly ReceivedDescriptors _unwanted = new();
    private readonly CancellationToken _cancellation;
    private readonly CancellationTokenRegistration _shutdown;
    private long _offset;

    private DataChannel(FileDescriptor file, UnixSocket? socket, CancellationToken cancellation)
    {
        _file = file;
        _socket = socket;
        _cancellation = cancellation;
        _shutdown = socket is null ? default : cancellation.Register(socket.Shutdown);
    }

    /// <summary>The channel of a call, or null when no descriptor came along.</summary>
    public static DataChannel? Of(OperationContext context)
    {
        if (context.Descriptors.Count == 0)
        {
            return null;
        }

        FileDescriptor file = context.Descriptors[0];
        string? target = new FileInfo($"/proc/self/fd/{file.Number}").LinkTarget;
        bool isSocket = target?.StartsWith("socket:", StringComparison.Ordinal) ?? false;
        if (!isSocket && !FileKinds.CanSeek(file))
        {
            throw new LinuxException(
                "blk", Errno.ESPIPE, $"descriptor of {target ?? "nothing"}", "data goes to a file with places or to a Unix stream socket, not to a pipe or a terminal",
                "hand over one of those, and copy from its other end");
        }

        return new DataChannel(file, isSocket ? new UnixSocket(file) : null, context.Cancellation);
    }

    /// <summary>Writes all of the bytes.</summary>
    public void Write(ReadOnlySpan<byte> bytes)
    {
        if (_socket is not null)
        {
            Check(_socket.Send(bytes), "send", bytes.Length);
            return;
        }

        while (bytes.Length > 0)
        {
            nint count = LinuxKernel.Instance.Pwrite(_file.Number, bytes, _offset);
            Check(count < 0 ? (Errno)(-count) : Errno.None, "pwrite", bytes.Length);
            _offset += count;
            bytes = bytes[(int)count..];
        }
    }

    /// <summary>Fills all of the bytes.</summary>
    public void Read(Span<byte> bytes)
    {
        while (bytes.Length > 0)
        {
            nint count = _socket is not null ? _socket.Receive(bytes, _unwanted) : LinuxKernel.Instance.Pread(_file.Number, bytes, _offset);
            _unwanted.Dispose();
            string call = _socket is null ? "pread" : "recv";
            Check(count < 0 ? (Errno)(-count) : Errno.None, call, bytes.Length);
            if (count == 0)
            {
                _cancellation.ThrowIfCancellationRequested();
                throw new LinuxException(call, Errno.EIO, $"{bytes.Length} bytes missing", "the input ended before the length that was told", "give the length that there is");
            }

            _offset += count;
            bytes = bytes[(int)count..];
        }
    }

    public void Dispose()
    {
        _shutdown.Dispose();
        _unwanted.Dispose();
        _socket?.Dispose();
    }

    private void Check(Errno errno, string call, int left)
    {
        if (errno != Errno.None)
        {
            _cancellation.ThrowIfCancellationRequested();
            throw new LinuxException(
                call,
                errno,
                $"{left} bytes of data",
                errno == Errno.EPIPE ? "the reader of the data went away" : null,
                errno == Errno.ENOSPC ? "make room on the file system" : null);
        }
    }
}
