using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Vfio.Linux;

namespace Vfio.VhostUser;

/// <summary>Whole messages over a socket: header, payload and descriptors. Used by both sides.</summary>
/// <remarks>One thread receives. Sends are whole messages and may come from several threads.</remarks>
internal sealed class MessageChannel : IDisposable
{
    /// <summary>Larger than any message of the specification; a size beyond it is a broken peer, not a reason to allocate.</summary>
    public const int MaxPayload = 4096;

    // More than any message has. A peer may send 253 with each byte, and all the process's are used up.
    private const int MostDescriptors = 16;

    private readonly UnixSocket _socket;
    private readonly Lock _sending = new();
    private readonly byte[] _send = new byte[Unsafe.SizeOf<MessageHeader>() + MaxPayload];

    // Messages come in bursts: one system call takes as many as are there.
    private readonly byte[] _received = new byte[4 * MaxPayload];
    private ReceivedDescriptors _arrived = new();
    private int _next;
    private int _end;
    private int _lastWithDescriptors = -1;

    public MessageChannel(UnixSocket socket) => _socket = socket;

    public MessageChannel(FileDescriptor socket) => _socket = new UnixSocket(socket);

    public UnixSocket Socket => _socket;

    /// <summary>Whether a whole message was received already, or one that is none: <see cref="Receive"/> will not wait.</summary>
    public bool HasBuffered => Missing == 0;

    /// <summary>The buffered message's header; <see cref="HasBuffered"/> is true.</summary>
    public MessageHeader NextHeader => MemoryMarshal.Read<MessageHeader>(_received.AsSpan(_next));

    /// <summary>The buffered message's payload; <see cref="HasBuffered"/> is true, and the header's size is right.</summary>
    public ReadOnlySpan<byte> NextPayload => _received.AsSpan(_next + Unsafe.SizeOf<MessageHeader>(), (int)NextHeader.Size);

    /// <summary>Whether descriptors came with what is buffered.</summary>
    public bool HasBufferedDescriptors => _lastWithDescriptors >= 0;

    // Bytes that are known to be missing to the next message. A size that no message has is for Receive to complain about.
    private int Missing
    {
        get
        {
            int header = Unsafe.SizeOf<MessageHeader>();
            int there = _end - _next;
            return there < header ? header - there
                : NextHeader.Size > MaxPayload ? 0
                : Math.Max(0, header + (int)NextHeader.Size - there);
        }
    }

    /// <summary>The header of the last message.</summary>
    public MessageHeader Header { get; private set; }

    /// <summary>The payload of the last message, until the next <see cref="TryBuffer"/> or <see cref="Receive"/>.</summary>
    public ReadOnlySpan<byte> Payload => _received.AsSpan(_next - (int)Header.Size, (int)Header.Size);

    /// <summary>The descriptors of the last message; the next one closes what was not taken.</summary>
    public ReceivedDescriptors Descriptors { get; private set; } = new();

    /// <summary>Waits for the next message.</summary>
    /// <returns>False when the other end closed between two messages.</returns>
    /// <exception cref="VhostUserProtocolException">It closed inside one, or what came is no message.</exception>
    public bool Receive()
    {
        Descriptors.Dispose();
        int headerSize = Unsafe.SizeOf<MessageHeader>();
        if (!Fill(0, headerSize, "a header"))
        {
            return false;
        }

        MessageHeader header = MemoryMarshal.Read<MessageHeader>(_received.AsSpan(_next));
        if ((header.Flags & MessageHeader.VersionMask) != MessageHeader.Version)
        {
            throw new VhostUserProtocolException(
                $"message {header.Request} has version {header.Flags & MessageHeader.VersionMask}, not 1");
        }

        if (header.Size > MaxPayload)
        {
            throw new VhostUserProtocolException(
                $"message {header.Request} announces {header.Size} bytes; none has more than {MaxPayload}");
        }

        if (_end - _next < headerSize + (int)header.Size)
        {
            Fill(headerSize, (int)header.Size, $"message {header.Request}");
        }

        _next += headerSize + (int)header.Size;
        Header = header;
        if (_lastWithDescriptors >= 0 && _lastWithDescriptors < _next)
        {
            (Descriptors, _arrived) = (_arrived, Descriptors);
            _lastWithDescriptors = -1;
        }

        if (Descriptors.Truncated)
        {
            throw new VhostUserProtocolException(
                $"message {header.Request} came with descriptors that could not be received. " +
                "Cause: this process has no more free (RLIMIT_NOFILE)");
        }

        return true;
    }

    /// <summary>Takes in what is there, without waiting.</summary>
    /// <returns>Whether <see cref="Receive"/> has something to say now: a message, or how the connection ended.</returns>
    public bool TryBuffer()
    {
        while (!HasBuffered)
        {
            MakeRoom();
            int received = _socket.TryReceive(Room(Missing), _arrived);
            if (received <= 0)
            {
                return received != -(int)Errno.EAGAIN;
            }

            Note(received);
        }

        return true;
    }

    /// <summary>Sends one message; waits for room.</summary>
    public void Send(uint request, uint flags, ReadOnlySpan<byte> payload, params ReadOnlySpan<FileDescriptor> descriptors)
    {
        lock (_sending)
        {
            Errno errno = _socket.Send(Compose(request, flags, payload), descriptors);
            if (errno != Errno.None)
            {
                throw new LinuxException("sendmsg", errno, $"message {request}");
            }
        }
    }

    /// <summary>Sends one message if there is room for it now.</summary>
    public bool TrySend(uint request, uint flags, ReadOnlySpan<byte> payload)
    {
        lock (_sending)
        {
            return _socket.TrySend(Compose(request, flags, payload)) == Errno.None;
        }
    }

    /// <summary>Sends messages of one kind, all together, if there is room for them now.</summary>
    /// <returns>False when none was sent.</returns>
    public bool TrySendAll<T>(uint request, uint flags, ReadOnlySpan<T> payloads)
        where T : unmanaged
    {
        lock (_sending)
        {
            // net/unix/af_unix.c, unix_stream_sendmsg: up to half the send buffer is one piece, which is queued whole or not at
            // all; _send is far below that.
            return _socket.TrySend(ComposeAll(request, flags, payloads)) == Errno.None;
        }
    }

    /// <summary>As <see cref="TrySendAll"/>, also without waiting for another thread, which may be waiting for room.</summary>
    /// <returns>False when none was sent.</returns>
    public bool TrySendAllAtOnce<T>(uint request, uint flags, ReadOnlySpan<T> payloads)
        where T : unmanaged
    {
        if (!_sending.TryEnter())
        {
            return false;
        }

        try
        {
            return _socket.TrySend(ComposeAll(request, flags, payloads)) == Errno.None;
        }
        finally
        {
            _sending.Exit();
        }
    }

    /// <summary>Sends messages of one kind, all together; waits for room.</summary>
    public void SendAll<T>(uint request, uint flags, ReadOnlySpan<T> payloads)
        where T : unmanaged
    {
        lock (_sending)
        {
            Errno errno = _socket.Send(ComposeAll(request, flags, payloads));
            if (errno != Errno.None)
            {
                throw new LinuxException("sendmsg", errno, $"{payloads.Length} messages {request}");
            }
        }
    }

    public void Dispose()
    {
        Descriptors.Dispose();
        _arrived.Dispose();
        _socket.Dispose();
    }

    private ReadOnlySpan<byte> ComposeAll<T>(uint request, uint flags, ReadOnlySpan<T> payloads)
        where T : unmanaged
    {
        int each = Unsafe.SizeOf<MessageHeader>() + Unsafe.SizeOf<T>();
        ArgumentOutOfRangeException.ThrowIfGreaterThan(payloads.Length * each, _send.Length, nameof(payloads));
        var header = new MessageHeader
        {
            Request = request,
            Flags = flags | MessageHeader.Version,
            Size = (uint)Unsafe.SizeOf<T>(),
        };
        for (int i = 0; i < payloads.Length; i++)
        {
            MemoryMarshal.Write(_send.AsSpan(i * each), in header);
            MemoryMarshal.Write(_send.AsSpan((i * each) + Unsafe.SizeOf<MessageHeader>()), in payloads[i]);
        }

        return _send.AsSpan(0, payloads.Length * each);
    }

    private ReadOnlySpan<byte> Compose(uint request, uint flags, ReadOnlySpan<byte> payload)
    {
        var header = new MessageHeader
        {
            Request = request,
            Flags = flags | MessageHeader.Version,
            Size = (uint)payload.Length,
        };
        MemoryMarshal.Write(_send, in header);
        payload.CopyTo(_send.AsSpan(Unsafe.SizeOf<MessageHeader>()));
        return _send.AsSpan(0, Unsafe.SizeOf<MessageHeader>() + payload.Length);
    }

    // Makes sure that a part of the next message is there. False when the other end closed before its first byte.
    private bool Fill(int offset, int size, string what)
    {
        if (offset == 0)
        {
            MakeRoom();
        }

        while (_end - _next < offset + size)
        {
            int received = _socket.Receive(Room(offset + size - (_end - _next)), _arrived);
            if (received > 0)
            {
                Note(received);
                continue;
            }

            // A reset is how a peer's death looks when it had not read everything.
            if (_end == _next && received is 0 or -(int)Errno.ECONNRESET)
            {
                return false;
            }

            throw received < 0
                ? new LinuxException("recvmsg", (Errno)(-received), what)
                : new VhostUserProtocolException(
                    $"the connection ended after {_end - _next - offset} of {size} bytes of {what}");
        }

        return true;
    }

    // Moves what is there to the front, if a message might not find room behind it.
    private void MakeRoom()
    {
        // Also if nothing is there: the cache lines at the front are warm.
        if (_next != 0 && (_next == _end || _received.Length - _next < Unsafe.SizeOf<MessageHeader>() + MaxPayload))
        {
            _received.AsSpan(_next, _end - _next).CopyTo(_received);
            _lastWithDescriptors = _lastWithDescriptors < 0 ? -1 : _lastWithDescriptors - _next;
            _end -= _next;
            _next = 0;
        }
    }

    // Descriptors that came are the next message's: no further than its end, or those behind it would be mixed with them.
    private Span<byte> Room(int missing) => _received.AsSpan(_end)[..(_arrived.Count == 0 ? _received.Length - _end : missing)];

    private void Note(int received)
    {
        _end += received;
        if (_arrived.Count > MostDescriptors)
        {
            throw new VhostUserProtocolException(
                $"a message came with {_arrived.Count} descriptors and more may follow; none has more than {MostDescriptors}");
        }

        if (_arrived.Count != 0 || _arrived.Truncated)
        {
            // net/unix/af_unix.c, unix_stream_read_generic: a read ends with the piece that brought descriptors. They
            // belong to the message that its last byte is in.
            _lastWithDescriptors = _end - 1;
        }
    }
}
