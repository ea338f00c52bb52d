using Microsoft.Win32.SafeHandles;
using Vfio.Linux;

namespace Vfio.Cli;

/// <summary>The file of <c>--out</c> or <c>--in</c>, opened with the caller's own rights and handed over as a descriptor. For
/// <c>-</c> one end of a socket pair is handed over, and this process copies between the other end and its own stream.</summary>
internal sealed class DataFile : IDisposable
{
    private readonly Thread? _pump;
    private readonly string? _target;
    private readonly string? _partial;
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
                catch (IOException e)
                {
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
    public static DataFile Output(string path, CliEnvironment environment)
    {
        if (path == "-")
        {
            (UnixSocket near, UnixSocket far) = UnixSocket.Pair();
            return new DataFile(near.Descriptor, far, socket => CopyOut(socket, environment.OpenOutput()));
        }

        string full = Path.GetFullPath(path);
        if (Path.Exists(full) && (File.GetAttributes(full) & (FileAttributes.Device | FileAttributes.Normal)) == FileAttributes.Device)
        {
            return new DataFile(Open(full, FileMode.Open, FileAccess.Write));
        }

        string partial = $"{full}.{Environment.ProcessId}.partial";
        return new DataFile(Open(partial, FileMode.CreateNew, FileAccess.ReadWrite), full, partial);
    }

    /// <summary>Opens the input.</summary>
    public static DataFile Input(string path, CliEnvironment environment)
    {
        if (path == "-")
        {
            (UnixSocket near, UnixSocket far) = UnixSocket.Pair();
            return new DataFile(near.Descriptor, far, socket => CopyIn(environment.OpenInput(), socket));
        }

        return new DataFile(Open(path, FileMode.Open, FileAccess.Read));
    }

    /// <summary>Bytes of a file.</summary>
    public static ulong LengthOf(string path)
    {
        using SafeFileHandle handle = OpenHandle(path, FileMode.Open, FileAccess.Read);
        return (ulong)RandomAccess.GetLength(handle);
    }

    /// <summary>The transfer ended well: what came through is all written, and the file gets its name.</summary>
    /// <exception cref="IOException">Writing to this process's own stream failed.</exception>
    public void Commit()
    {
        Descriptor.Dispose();
        _pump?.Join();
        if (_pumpError is not null)
        {
            throw new IOException($"standard stream: {_pumpError.Message}", _pumpError);
        }

        if (_target is not null)
        {
            File.Move(_partial!, _target, overwrite: true);
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

    private static FileDescriptor Open(string path, FileMode mode, FileAccess access)
    {
        using SafeFileHandle handle = OpenHandle(path, mode, access);
        var descriptor = new FileDescriptor(LinuxKernel.Instance, (int)handle.DangerousGetHandle());
        // The number has its new owner; the handle closes nothing.
        handle.SetHandleAsInvalid();
        return descriptor;
    }

    private static SafeFileHandle OpenHandle(string path, FileMode mode, FileAccess access)
    {
        try
        {
            return File.OpenHandle(path, mode, access);
        }
        catch (Exception e) when (e is FileNotFoundException or DirectoryNotFoundException)
        {
            throw new LinuxException("open", Errno.ENOENT, path, "there is no such file or directory", "look at the path");
        }
        catch (UnauthorizedAccessException)
        {
            throw new LinuxException("open", Errno.EACCES, path, "this user may not open it", "look at its mode: ls -ld");
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
