namespace Vfio.VhostUser;

/// <summary>Up to 32 frames on their way from one ring to another, each in a buffer of its own place. The same buffers come
/// round with every batch, so they stay in the cache.</summary>
/// <remarks>For one thread. Frames are taken from the front.</remarks>
public sealed class FrameBatch : IDisposable
{
    /// <summary>Frames in a batch.</summary>
    public const int Capacity = 32;

    /// <summary>What a pool's buffers must hold.</summary>
    public const int BufferSize = 128 << 10;

    // Buffers lie a power of two apart, so their first bytes would compete for the same few places in the cache: each
    // starts a large frame's length further in than the one before.
    private const int Stagger = 1600;

    private readonly PinnedPool _pool;
    private readonly PinnedBuffer[] _buffers = new PinnedBuffer[Capacity];
    // Where each one's bytes are never changes.
    private readonly Frame[] _frames = new Frame[Capacity];
    private int _first;
    private int _end;

    /// <summary>Rents the buffers.</summary>
    /// <param name="pool">A pool with buffers of <see cref="BufferSize"/> bytes.</param>
    /// <exception cref="Linux.LinuxException">It has not so many left.</exception>
    public FrameBatch(PinnedPool pool)
    {
        ArgumentNullException.ThrowIfNull(pool);
        ArgumentOutOfRangeException.ThrowIfLessThan(pool.BufferSize, BufferSize, nameof(pool));
        _pool = pool;
        try
        {
            for (int i = 0; i < Capacity; i++)
            {
                _buffers[i] = pool.Rent();
                _frames[i].Data = _buffers[i].Address + (ulong)(i * Stagger);
                // Whoever copies frames in does not tell: any page may be written until the buffer is given back.
                pool.Dirty?.BeginDeviceWrite(_buffers[i]);
            }
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>The frames that are left.</summary>
    public ReadOnlySpan<Frame> Frames => _frames.AsSpan(_first, _end - _first);

    /// <summary>How many are left.</summary>
    public int Count => _end - _first;

    /// <summary>Whether there is room for another.</summary>
    internal bool IsFull => _end == Capacity;

    /// <summary>Forgets the frames.</summary>
    public void Clear() => _first = _end = 0;

    /// <summary>Makes the batch full again, of the frames that were in it when it last was.</summary>
    public void Refill() => (_first, _end) = (0, Capacity);

    /// <summary>Forgets frames at the front.</summary>
    /// <param name="count">How many.</param>
    public void Take(int count)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan((uint)count, (uint)Count, nameof(count));
        _first += count;
        if (_first == _end)
        {
            Clear();
        }
    }

    /// <summary>Adds a frame of zeroes, for its bytes to be written.</summary>
    /// <param name="length">Bytes.</param>
    /// <returns>The frame.</returns>
    /// <exception cref="InvalidOperationException">The batch is full.</exception>
    public Frame Add(int length)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(length, Frame.MinLength);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(length, Frame.MaxLength);
        if (IsFull)
        {
            throw new InvalidOperationException($"a batch holds {Capacity} frames");
        }

        ref Frame frame = ref Append(length);
        frame.Span.Clear();
        return frame;
    }

    /// <summary>Gives the buffers back.</summary>
    public void Dispose()
    {
        Clear();
        for (int i = 0; i < Capacity; i++)
        {
            if (_buffers[i].Length != 0)
            {
                _pool.Dirty?.EndDeviceWrite(_buffers[i], _buffers[i].Length);
                _pool.Return(_buffers[i]);
                _buffers[i] = default;
            }
        }
    }

    /// <summary>Adds a plain frame of the bytes that are to be written at its place; there is room.</summary>
    internal ref Frame Append(int length)
    {
        // Set in place: a copy of a structure that was just put together on the stack waits for its parts to be stored.
        ref Frame frame = ref _frames[_end];
        frame.Length = length;
        frame.Header = default;
        _end++;
        return ref frame;
    }
}
