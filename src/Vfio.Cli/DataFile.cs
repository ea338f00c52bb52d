using System.Diagnostics.CodeAnalysis;
using Microsoft.Win32.SafeHandles;
using Vfio.Linux;

namespace Vfio.Cli;

/// <summary>The file of <c>--out</c> or <c>--in</c>, opened with the caller's own rights and handed over as a descriptor. For
/// <c>-</c>, and for a path that names a stream (a pipe, a terminal), one end of a socket pair is handed over, and this process copies
/// between the other end and the stream.</summary>
internal sealed class DataFile : IDisposable
{
    private readonly Thread? _pump;
    private readonly string? _target;
    private string? _partial;
    private Exception? _pumpError;

    private DataFile(FileDescriptor descriptor) => Descriptor = descriptor;

    private DataFile(FileDescriptor descriptor, string target, string partial)
        : this(descriptor)
    {
        _target = target;
        _partial = partial;
    }

    private DataFile(FileDescriptor descriptor, UnixSocket far, Action<UnixSocket> pump)
        : this(descriptor)
    {
        _pump = new Thread(() =>
        {
            // Closed here and nowhere else: whoever feeds or drains the other end is then not left waiting.
            using (far)
            {
                try
                {
                    pump(far);
                }
                catch (Exception e) when (e is IOException or UnauthorizedAccessException or ObjectDisposedException)
                {
                    // The last: the call has failed, and whoever gave the stream has closed it under this thread.
                    _pumpError = e;
                }
            }
        })
        { IsBackground = true, Name = "data" };
        _pump.Start();
    }

    /// <summary>What goes along with the call.</summary>
    public FileDescriptor Descriptor { get; }

    /// <summary>Opens the output. A file gets its name only with <see cref="Commit"/>, so that a transfer that fails leaves what was
    /// there before; a device is written as it is.</summary>
    /// <param name="path">The path, or <c>-</c>.</param>
    /// <param name="environment">Has the standard stream.</param>
    /// <param name="needsFile">Why a stream will not do; null where it will.</param>
    [SuppressMessage("Reliability", "CA2000:Dispose objects before losing scope", Justification = "owned by what comes back")]
    public static DataFile Output(string path, CliEnvironment environment, string? needsFile = null)
    {
        if (path == "-")
        {
            return Stream(socket => CopyOut(socket, environment.OpenOutput()));
        }

        string full = Path.GetFullPath(path);
        switch (FileKinds.Of(full))
        {
            case FileKind.Directory:
                throw IsDirectory(path);
            case FileKind.Pipe when needsFile is null:
                // Opened where it may wait for the reader.
                return Stream(socket =>
                {
                    using FileStream pipe = OpenStream(full, FileAccess.Write);
                    CopyOut(socket, pipe);
                });
            case FileKind.Pipe:
                throw IsStream(path, needsFile);
            case FileKind.Other:
                FileDescriptor device = Open(full, FileMode.Open, FileAccess.Write);
                return FileKinds.CanSeek(device) ? new DataFile(device)
                    : Stream(device, needsFile, path, socket =>
                    {
                        using FileStream stream = OverDescriptor(device, FileAccess.Write);
                        CopyOut(socket, stream);
                    });
            case FileKind.Regular:
                // What a link names is replaced, not the link.
                return Replacing(new FileInfo(full).ResolveLinkTarget(returnFinalTarget: true)?.FullName ?? full);
            default:
                return Replacing(full);
        }
    }

    /// <summary>Opens the input.</summary>
    /// <param name="path">The path, or <c>-</c>.</param>
    /// <param name="environment">Has the standard stream.</param>
    /// <param name="needsFile">As for <see cref="Output"/>.</param>
    [SuppressMessage("Reliability", "CA2000:Dispose objects before losing scope", Justification = "owned by what comes back")]
    public static DataFile Input(string path, CliEnvironment environment, string? needsFile = null)
    {
        if (path == "-")
        {
            return needsFile is not null ? throw IsStream("standard input", needsFile) : Stream(socket => CopyIn(environment.OpenInput(), socket));
        }

        switch (FileKinds.Of(path))
        {
            case FileKind.Directory:
                throw IsDirectory(path);
            case FileKind.Pipe when needsFile is null:
                return Stream(socket =>
                {
                    using FileStream pipe = OpenStream(path, FileAccess.Read);
                    CopyIn(pipe, socket);
                });
            case FileKind.Pipe:
                throw IsStream(path, needsFile);
            default:
                FileDescriptor file = Open(path, FileMode.Open, FileAccess.Read);
                return FileKinds.CanSeek(file) ? new DataFile(file)
                    : Stream(file, needsFile, path, socket =>
                    {
                        using FileStream stream = OverDescriptor(file, FileAccess.Read);
                        CopyIn(stream, socket);
                    });
        }
    }

    /// <summary>Bytes of a file, or null for what has no length of its own.</summary>
    public static ulong? LengthOf(string path)
    {
        if (path == "-" || FileKinds.Of(path) is FileKind.Pipe or FileKind.Other)
        {
            return null;
        }

        using SafeFileHandle handle = OpenHandle(path, FileMode.Open, FileAccess.Read, path);
        return (ulong)RandomAccess.GetLength(handle);
    }

    /// <summary>The transfer ended well: what came through is all written, and the file gets its name.</summary>
    /// <exception cref="IOException">Writing to the stream failed.</exception>
    public void Commit()
    {
        Descriptor.Dispose();
        _pump?.Join();
        if (_pumpError is not null)
        {
            throw new IOException($"the stream that the data goes through: {_pumpError.Message}", _pumpError);
        }

        if (_target is not null)
        {
            string whole = _partial!;
            // Whatever comes: somebody may count on it, as a pool's record does on its last export.
            _partial = null;
            try
            {
                File.Move(whole, _target, overwrite: true);
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                throw new IOException($"{_target}: {e.Message} What was to be written there is whole in {whole}: move it yourself.", e);
            }
        }
    }

    public void Dispose()
    {
        Descriptor.Dispose();
        if (_partial is not null)
        {
            File.Delete(_partial);
        }
    }

    private static DataFile Replacing(string target)
    {
        string partial = $"{target}.{Environment.ProcessId}.partial";
        return new DataFile(Open(partial, FileMode.CreateNew, FileAccess.ReadWrite, target), target, partial);
    }

    private static DataFile Stream(Action<UnixSocket> pump)
    {
        (UnixSocket near, UnixSocket far) = UnixSocket.Pair();
        return new DataFile(near.Descriptor, far, pump);
    }

    // A device that is a stream, such as a terminal.
    private static DataFile Stream(FileDescriptor device, string? needsFile, string path, Action<UnixSocket> pump)
    {
        if (needsFile is not null)
        {
            device.Dispose();
            throw IsStream(path, needsFile);
        }

        return Stream(socket =>
        {
            using (device)
            {
                pump(socket);
            }
        });
    }

    [SuppressMessage("Reliability", "CA2000:Dispose objects before losing scope", Justification = "the stream disposes it, and it owns nothing")]
    private static FileStream OverDescriptor(FileDescriptor file, FileAccess access) =>
        new(new SafeFileHandle(file.Number, ownsHandle: false), access, bufferSize: 0);

    // Without a lock on the file, which a pipe has no use for.
    private static FileStream OpenStream(string path, FileAccess access) => new(path, FileMode.Open, access, FileShare.ReadWrite | FileShare.Delete, bufferSize: 0);

    private static LinuxException IsStream(string path, string why) =>
        new("open", Errno.ESPIPE, $"{path} is a stream (a pipe or a terminal)", why, "name a file, and copy from or to that");

    private static LinuxException IsDirectory(string path) => new("open", Errno.EISDIR, path, "it is a directory", "name a file in it");

    private static FileDescriptor Open(string path, FileMode mode, FileAccess access, string? knownAs = null)
    {
        using SafeFileHandle handle = OpenHandle(path, mode, access, knownAs ?? path);
        var descriptor = new FileDescriptor(LinuxKernel.Instance, (int)handle.DangerousGetHandle());
        // The number has its new owner; the handle closes nothing.
        handle.SetHandleAsInvalid();
        return descriptor;
    }

    // The user is told of the file that he named.
    private static SafeFileHandle OpenHandle(string path, FileMode mode, FileAccess access, string knownAs)
    {
        try
        {
            return File.OpenHandle(path, mode, access);
        }
        catch (Exception e) when (e is FileNotFoundException or DirectoryNotFoundException)
        {
            throw new LinuxException("open", Errno.ENOENT, knownAs, "there is no such file or directory", "look at the path");
        }
        catch (UnauthorizedAccessException)
        {
            throw new LinuxException(
                "open", Errno.EACCES, knownAs, "this user may not open it, or make a file beside it", "look at the modes: ls -ld, of the directory too");
        }
    }

    private static void CopyOut(UnixSocket from, Stream to)
    {
        byte[] buffer = new byte[64 * 1024];
        using var none = new ReceivedDescriptors();
        int count;
        while ((count = from.Receive(buffer, none)) > 0)
        {
            to.Write(buffer, 0, count);
        }

        to.Flush();
    }

    private static void CopyIn(Stream from, UnixSocket to)
    {
        byte[] buffer = new byte[64 * 1024];
        int count;
        while ((count = from.Read(buffer)) > 0)
        {
            if (to.Send(buffer.AsSpan(0, count)) != Errno.None)
            {
                return;
            }
        }
    }
}
