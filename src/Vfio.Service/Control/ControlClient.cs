using System.Text.Json;
using Vfio.Linux;

namespace Vfio.Service;

/// <summary>Operations on a daemon's engine, over its control socket.</summary>
/// <remarks>One call at a time. Its errors are the daemon's own, rebuilt part by part.</remarks>
public sealed class ControlClient : IControl
{
    // An answer may list every page of a large pool; a request is never near that.
    private const int LongestAnswer = 256 * 1024 * 1024;

    private readonly UnixSocket _socket;
    private readonly LineReader _reader;
    private readonly List<FileDescriptor> _received = [];
    private readonly Lock _sending = new();
    private long _lastId;

    private ControlClient(UnixSocket socket)
    {
        _socket = socket;
        _reader = new LineReader(socket, LongestAnswer);
    }

    /// <summary>The connection's descriptor. What the daemon holds for this client it holds as long as a process has it open.</summary>
    public FileDescriptor Descriptor => _socket.Descriptor;

    /// <summary>Connects to a daemon.</summary>
    /// <param name="path">Its socket.</param>
    /// <returns>The connection.</returns>
    /// <exception cref="LinuxException">No daemon runs there, or this user may not use it.</exception>
    public static ControlClient Connect(string path = ControlServer.DefaultPath)
    {
        ControlClient? client = TryConnect(path, out Errno errno);
        return client ?? throw errno switch
        {
            Errno.ENOENT or Errno.ECONNREFUSED => new LinuxException(
                "connect", errno, path, "no daemon is running there", "start one: vfiopin daemon &"),
            Errno.EACCES => new LinuxException(
                "connect",
                errno,
                path,
                "this user may not use the daemon's socket (mode 0660)",
                "run the command as root, or join the socket's group (vfiopin daemon --group NAME)"),
            _ => new LinuxException(
                "connect", errno, path, null, SystemFailure.Find("connect", errno) is null ? "look at the daemon's log" : null),
        };
    }

    /// <summary>Connects to a daemon if one runs.</summary>
    /// <param name="path">Its socket.</param>
    /// <param name="errno">Why there is no connection.</param>
    /// <returns>The connection, or null.</returns>
    public static ControlClient? TryConnect(string path, out Errno errno)
    {
        UnixSocket? socket = UnixSocket.TryConnect(path, out errno);
        return socket is null ? null : new ControlClient(socket);
    }

    /// <inheritdoc/>
    public TResult Invoke<TParameters, TResult>(
        Operation<TParameters, TResult> operation, TParameters parameters, OperationContext context)
        where TParameters : class
        where TResult : class
    {
        ArgumentNullException.ThrowIfNull(operation);
        ArgumentNullException.ThrowIfNull(context);
        context.Cancellation.ThrowIfCancellationRequested();
        long id = ++_lastId;
        Send(
            RpcMessage.Request(
                id, operation.Method, w => JsonSerializer.Serialize(w, parameters, operation.ParametersJson), context.Descriptors.Count),
            [.. context.Descriptors]);
        using CancellationTokenRegistration registration =
            context.Cancellation.Register(() => Send(RpcMessage.Cancel(id), []));
        try
        {
            return Answer(operation, context);
        }
        catch (JsonException e)
        {
            throw new ControlException($"the daemon's answer to {operation.Method} is not understood, it may be of another version than this program: {e.Message}");
        }
    }

    /// <summary>Gives the daemon up: a call that waits for it fails. From any thread.</summary>
    public void Abandon() => _socket.Shutdown();

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (FileDescriptor descriptor in _received)
        {
            descriptor.Dispose();
        }

        _received.Clear();
        _reader.Dispose();
        _socket.Dispose();
    }

    private TResult Answer<TParameters, TResult>(Operation<TParameters, TResult> operation, OperationContext context)
        where TParameters : class
        where TResult : class
    {
        while (true)
        {
            using JsonDocument message = Receive(operation.Method);
            JsonElement root = message.RootElement;
            if (root.TryGetProperty("method", out _))
            {
                Report(root, context);
            }
            else if (root.TryGetProperty("error", out JsonElement error))
            {
                throw Failure(error, context);
            }
            else if (root.TryGetProperty("result", out JsonElement result))
            {
                TakeDescriptors(root, context);
                return result.Deserialize(operation.ResultJson) ?? throw new ControlException("the daemon's result is null");
            }
        }
    }

    private static void Report(JsonElement root, OperationContext context)
    {
        if (context.Progress is { } progress
            && root.TryGetProperty("params", out JsonElement parameters)
            && parameters.TryGetProperty("report", out JsonElement report)
            && report.Deserialize(ServiceJson.Default.ProgressReport) is { } typed)
        {
            progress(typed);
        }
    }

    private static Exception Failure(JsonElement error, OperationContext context)
    {
        int code = error.TryGetProperty("code", out JsonElement number) && number.TryGetInt32(out int value) ? value : 0;
        if (code == RpcError.Cancelled)
        {
            return new OperationCanceledException("the daemon ended the operation", context.Cancellation);
        }

        if (error.TryGetProperty("data", out JsonElement data) && data.Deserialize(ServiceJson.Default.ErrorData) is { } parts)
        {
            return parts.ToException();
        }

        string message = error.TryGetProperty("message", out JsonElement text) ? text.ToString() : "no message";
        return new ControlException($"the daemon answered with error {code}: {message}");
    }

    private void TakeDescriptors(JsonElement root, OperationContext context)
    {
        int count = root.TryGetProperty("descriptors", out JsonElement number) ? number.GetInt32() : 0;
        FileDescriptor[] taken = _reader.TakeDescriptors(count)
            ?? throw new ControlException("the daemon's answer lacks descriptors that it tells of");
        foreach (FileDescriptor descriptor in taken)
        {
            _received.Add(descriptor);
            context.Answer(descriptor);
        }
    }

    private JsonDocument Receive(string method)
    {
        LineReader.Outcome outcome = _reader.Read(out ReadOnlyMemory<byte> line);
        return outcome == LineReader.Outcome.Line
            ? JsonDocument.Parse(line.ToArray())
            : throw new ControlException($"the daemon went away during {method}; its log says why");
    }

    private void Send(ReadOnlyMemory<byte> line, FileDescriptor[] descriptors)
    {
        lock (_sending)
        {
            Errno errno = _socket.Send(line.Span, descriptors);
            // That the daemon is gone is seen by the receiving side, which also gets what it said last. Nothing else has an answer.
            if (errno is not (Errno.None or Errno.EPIPE or Errno.ECONNRESET))
            {
                throw new LinuxException("sendmsg", errno, "the daemon's socket");
            }
        }
    }
}
