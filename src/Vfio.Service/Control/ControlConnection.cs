using System.Buffers;
using System.Text.Json;
using Vfio.Linux;

namespace Vfio.Service;

/// <summary>One client of the control socket. Its thread reads; each call works on a thread of its own, so that the end of the
/// connection is seen at once and cancels what the client had asked for.</summary>
internal sealed class ControlConnection(ControlServer server, Engine engine, UnixSocket socket, string who)
{
    private const int MostCalls = 8;
    private const int DeepestMessage = 16;

    private static readonly TimeSpan LongestFarewell = TimeSpan.FromSeconds(5);

    private readonly Lock _gate = new();
    private readonly Lock _sending = new();
    private readonly List<Call> _calls = [];
    private readonly Stack<Action> _held = [];
    private bool _ended;
    private bool _closed;

    /// <summary>Who the client is, for the log.</summary>
    public string Who { get; } = who;

    /// <summary>Serves until the client goes away, errs, or <see cref="Stop"/> is called.</summary>
    public void Run()
    {
        using (var reader = new LineReader(socket, ControlServer.LongestLine))
        {
            bool going = true;
            while (going)
            {
                LineReader.Outcome outcome = reader.Read(out ReadOnlyMemory<byte> line);
                going = outcome switch
                {
                    LineReader.Outcome.Line => Receive(line, reader),
                    LineReader.Outcome.TooLong => Reject($"a line is longer than {ControlServer.LongestLine} bytes"),
                    LineReader.Outcome.TooManyDescriptors => Reject("more descriptors came than any call takes"),
                    _ => false,
                };
            }
        }

        End();
        lock (_gate)
        {
            _closed = true;
            socket.Dispose();
        }
    }

    /// <summary>Tells the client why it is not served, and closes.</summary>
    public void Refuse(string reason)
    {
        var error = new LinuxException("connect", Errno.EPERM, "the daemon refused this client", reason, "ask root to run the command, or to start the daemon with --group");
        SendError(null, RpcError.Failed, error.Message, ErrorData.Of(error));
        socket.Dispose();
    }

    /// <summary>Cancels what runs, waits for it and ends the connection. From any thread.</summary>
    public void Stop()
    {
        CancelAndWait();
        CutOff();
    }

    private void End()
    {
        CancelAndWait();
        while (_held.TryPop(out Action? atEnd))
        {
            try
            {
                atEnd();
            }
            catch (LinuxException e)
            {
                server.Log($"client {Who}: at the end of its session: {e.Message}");
            }
        }
    }

    private void CutOff()
    {
        lock (_gate)
        {
            if (!_closed)
            {
                socket.Shutdown();
            }
        }
    }

    private void CancelAndWait()
    {
        Call[] calls;
        lock (_gate)
        {
            _ended = true;
            calls = [.. _calls];
        }

        foreach (Call call in calls)
        {
            call.Cancellation.Cancel();
        }

        foreach (Call call in calls)
        {
            if (!call.Finished.Wait(LongestFarewell))
            {
                // It waits for a client that does not read its answer.
                CutOff();
                call.Finished.Wait();
            }
        }
    }

    // Returns whether the connection can go on.
    private bool Receive(ReadOnlyMemory<byte> line, LineReader reader)
    {
        JsonElement message;
        try
        {
            CheckText(line.Span);
            using var document = JsonDocument.Parse(line, new JsonDocumentOptions { MaxDepth = DeepestMessage });
            message = document.RootElement.Clone();
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException)
        {
            SendError(null, RpcError.Parse, $"not JSON: {e.Message}", null);
            return true;
        }

        if (RpcRequest.TryRead(message, out string wrong) is not { } request)
        {
            SendError(RpcRequest.IdOf(message), RpcError.InvalidRequest, wrong, null);
            return true;
        }

        if (reader.TakeDescriptors(request.Descriptors) is not { } descriptors)
        {
            // The count is what keeps descriptors and messages together; without it nothing after this can be trusted.
            return Reject($"the message says that it has {request.Descriptors} descriptors, and fewer came");
        }

        if (request.Method == "cancel")
        {
            Dispose(descriptors);
            CancelCall(request.Parameters);
            return true;
        }

        if (Operations.Find(request.Method) is not { } operation)
        {
            Dispose(descriptors);
            SendError(request.Id, RpcError.MethodNotFound, $"there is no method {request.Method}", null);
            return true;
        }

        Begin(operation, request, descriptors);
        return true;
    }

    // Strings are checked only when they are asked for: half a surrogate pair, or bytes that are no UTF-8, would throw
    // InvalidOperationException wherever that is.
    private static void CheckText(ReadOnlySpan<byte> line)
    {
        var reader = new Utf8JsonReader(line, new JsonReaderOptions { MaxDepth = DeepestMessage });
        while (reader.Read())
        {
            if (reader.TokenType is JsonTokenType.String or JsonTokenType.PropertyName)
            {
                _ = reader.GetString();
            }
        }
    }

    private void Begin(Operation operation, RpcRequest request, FileDescriptor[] descriptors)
    {
        var call = new Call(request.Id);
        lock (_gate)
        {
            if (!_ended && _calls.Count < MostCalls)
            {
                _calls.Add(call);
                _ = Task.Factory.StartNew(
                    () => Work(call, operation, request, descriptors),
                    CancellationToken.None,
                    TaskCreationOptions.LongRunning,
                    TaskScheduler.Default);
                return;
            }
        }

        call.Dispose();
        Dispose(descriptors);
        SendError(request.Id, RpcError.Internal, $"more than {MostCalls} calls at once", null);
    }

    private void Work(Call call, Operation operation, RpcRequest request, FileDescriptor[] descriptors)
    {
        var context = new OperationContext
        {
            Cancellation = call.Cancellation.Token,
            Progress = report => SendProgress(request.Id, report),
            Descriptors = descriptors,
            Hold = Hold,
        };
        try
        {
            var result = new ArrayBufferWriter<byte>();
            using (var writer = new Utf8JsonWriter(result))
            {
                operation.Serve(engine, request.Parameters, context, writer);
            }

            SendResult(request.Id, result.WrittenSpan, context.Answered);
        }
        catch (IOException e) when (ErrorData.Of(e) is not null)
        {
            server.Log($"client {Who}: {operation.Method}: {e.Message}");
            SendError(request.Id, RpcError.Failed, e.Message, ErrorData.Of(e));
        }
        catch (OperationCanceledException)
        {
            server.Log($"client {Who}: {operation.Method}: cancelled");
            SendError(request.Id, RpcError.Cancelled, "cancelled", null);
        }
        catch (JsonException e)
        {
            SendError(request.Id, RpcError.InvalidParameters, e.Message, null);
        }
        catch (Exception e) when (e is not OutOfMemoryException)
        {
            // The client's call must not take the pools of others down; the whole of it goes to the log.
            server.Log($"client {Who}: {operation.Method}: {e}");
            SendError(request.Id, RpcError.Internal, $"{e.GetType().Name}: {e.Message}", null);
        }
        finally
        {
            Dispose(descriptors);
            lock (_gate)
            {
                _calls.Remove(call);
            }

            call.Finished.Set();
        }
    }

    private void Hold(Action atEnd)
    {
        lock (_gate)
        {
            if (!_ended)
            {
                _held.Push(atEnd);
                return;
            }
        }

        atEnd();
        throw new OperationCanceledException("the client is gone");
    }

    private void CancelCall(JsonElement parameters)
    {
        if (parameters.ValueKind != JsonValueKind.Object || !parameters.TryGetProperty("id", out JsonElement id))
        {
            return;
        }

        lock (_gate)
        {
            _calls.Find(c => c.Id is { } own && own.GetRawText() == id.GetRawText())?.Cancellation.Cancel();
        }
    }

    private bool Reject(string reason)
    {
        server.Log($"client {Who}: {reason}");
        SendError(null, RpcError.InvalidRequest, reason, null);
        return false;
    }

    private void SendResult(JsonElement? id, ReadOnlySpan<byte> result, IReadOnlyList<FileDescriptor> descriptors)
    {
        // JSON-RPC 2.0, 4.1 "Notification": no answer, not even an error.
        if (id is { } own)
        {
            Errno errno = Send(RpcMessage.Result(own, result, descriptors.Count), [.. descriptors]);
            if (errno is not (Errno.None or Errno.EPIPE or Errno.ECONNRESET))
            {
                var error = new LinuxException("sendmsg", errno, $"the answer and {descriptors.Count} descriptors", "they could not be handed over");
                SendError(id, RpcError.Failed, error.Message, ErrorData.Of(error));
            }
        }
    }

    // A client that is gone is seen by the reading thread; there is nobody left to tell.
    private void SendError(JsonElement? id, int code, string message, ErrorData? data) =>
        _ = Send(RpcMessage.Error(id, code, message, data), []);

    private void SendProgress(JsonElement? id, ProgressReport report)
    {
        if (id is { } own)
        {
            ReadOnlyMemory<byte> line = RpcMessage.Progress(own, report);
            // Dropped when the client does not read: it is told the next one, and the work does not wait for it.
            if (_sending.TryEnter())
            {
                _ = socket.TrySend(line.Span);
                _sending.Exit();
            }
        }
    }

    private Errno Send(ReadOnlyMemory<byte> line, FileDescriptor[] descriptors)
    {
        lock (_sending)
        {
            return socket.Send(line.Span, descriptors);
        }
    }

    private static void Dispose(FileDescriptor[] descriptors)
    {
        foreach (FileDescriptor descriptor in descriptors)
        {
            descriptor.Dispose();
        }
    }

    private sealed class Call(JsonElement? id) : IDisposable
    {
        public JsonElement? Id { get; } = id;

        public CancellationTokenSource Cancellation { get; } = new();

        public ManualResetEventSlim Finished { get; } = new();

        public void Dispose()
        {
            Cancellation.Dispose();
            Finished.Dispose();
        }
    }
}
