using Vfio.Linux;

namespace Vfio.Service;

/// <summary>Cuts what comes over a socket into lines, and keeps the descriptors that came with them in order.</summary>
/// <remarks>For one thread.</remarks>
internal sealed class LineReader(UnixSocket socket, int longestLine) : IDisposable
{
    private const int Step = 4096;

    // A peer that sends descriptors which no message claims is cut off here.
    private const int MostDescriptors = 64;

    private readonly Queue<FileDescriptor> _descriptors = new();
    private readonly ReceivedDescriptors _received = new();
    private byte[] _buffer = new byte[Step];
    private int _start;
    private int _end;
    private int _scanned;

    public enum Outcome
    {
        Line,
        Closed,
        TooLong,
        TooManyDescriptors,
    }

    /// <summary>Waits for a line.</summary>
    /// <param name="line">The line without its end; valid until the next call.</param>
    /// <returns>Whether there is one.</returns>
    public Outcome Read(out ReadOnlyMemory<byte> line)
    {
        line = default;
        while (true)
        {
            int at = _buffer.AsSpan(_scanned, _end - _scanned).IndexOf((byte)'\n');
            if (at >= 0)
            {
                line = _buffer.AsMemory(_start, _scanned + at - _start);
                _start = _scanned + at + 1;
                _scanned = _start;
                return line.Length > longestLine ? Outcome.TooLong : Outcome.Line;
            }

            _scanned = _end;
            if (_end - _start > longestLine)
            {
                return Outcome.TooLong;
            }

            MakeRoom();
            int count = socket.Receive(_buffer.AsSpan(_end), _received);
            for (int i = 0; i < _received.Count; i++)
            {
                _descriptors.Enqueue(_received.Take(i));
            }

            bool truncated = _received.Truncated;
            _received.Dispose();
            if (truncated || _descriptors.Count > MostDescriptors)
            {
                return Outcome.TooManyDescriptors;
            }

            // 0 is the peer's end; an error (ECONNRESET) is its death, which is the same to us.
            if (count <= 0)
            {
                return Outcome.Closed;
            }

            _end += count;
        }
    }

    /// <summary>Takes the next descriptors over.</summary>
    /// <param name="count">How many the message says it has.</param>
    /// <returns>The descriptors, or null when fewer came.</returns>
    public FileDescriptor[]? TakeDescriptors(int count)
    {
        if (count < 0 || count > _descriptors.Count)
        {
            return null;
        }

        var taken = new FileDescriptor[count];
        for (int i = 0; i < count; i++)
        {
            taken[i] = _descriptors.Dequeue();
        }

        return taken;
    }

    public void Dispose()
    {
        foreach (FileDescriptor descriptor in _descriptors)
        {
            descriptor.Dispose();
        }

        _descriptors.Clear();
        _received.Dispose();
    }

    private void MakeRoom()
    {
        if (_start > 0)
        {
            _buffer.AsSpan(_start, _end - _start).CopyTo(_buffer);
            _end -= _start;
            _scanned -= _start;
            _start = 0;
        }

        if (_buffer.Length - _end < Step / 2)
        {
            Array.Resize(ref _buffer, _buffer.Length * 2);
        }
    }
}
