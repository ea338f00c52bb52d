using System.Buffers;

namespace Vfio;

/// <summary>A rented buffer as <see cref="Memory{T}"/>. Disposing returns it, once.</summary>
/// <remarks>Nobody reports what is stored through such memory, so the pool's record takes all of it as being written until it is returned, and
/// as written then.</remarks>
public sealed unsafe class PinnedMemoryOwner : MemoryManager<byte>
{
    private readonly PinnedPool _pool;
    private readonly PinnedBuffer _buffer;
    private int _returned;

    internal PinnedMemoryOwner(PinnedPool pool, PinnedBuffer buffer)
    {
        _pool = pool;
        _buffer = buffer;
        _pool.Dirty?.BeginDeviceWrite(buffer);
    }

    /// <summary>The buffer, with the IOVA for a descriptor.</summary>
    /// <exception cref="ObjectDisposedException">It was returned.</exception>
    public PinnedBuffer Buffer
    {
        get
        {
            // ORDER: pairs with the exchange in Dispose; a use that races with it is the renter's mistake.
            ObjectDisposedException.ThrowIf(Volatile.Read(ref _returned) != 0, this);
            return _buffer;
        }
    }

    /// <inheritdoc/>
    public override Span<byte> GetSpan() => Buffer.Span;

    /// <inheritdoc/>
    // SAFETY: the memory is no object's, so nothing moves it; the index is checked against its length.
    public override MemoryHandle Pin(int elementIndex = 0)
    {
        PinnedBuffer buffer = Buffer;
        ArgumentOutOfRangeException.ThrowIfNegative(elementIndex);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(elementIndex, buffer.Length);
        return new MemoryHandle((byte*)buffer.Address.Value + elementIndex);
    }

    /// <inheritdoc/>
    public override void Unpin()
    {
        // Never moved, so never held.
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        if (disposing && Interlocked.Exchange(ref _returned, 1) == 0)
        {
            // Marked before another can rent it.
            _pool.Dirty?.EndDeviceWrite(_buffer);
            _pool.Return(_buffer);
        }
    }
}
