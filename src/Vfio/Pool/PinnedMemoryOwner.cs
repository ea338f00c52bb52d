using System.Buffers;

namespace Vfio;

/// <summary>A rented buffer as <see cref="Memory{T}"/>. Disposing returns it, once.</summary>
public sealed unsafe class PinnedMemoryOwner : MemoryManager<byte>
{
    private readonly PinnedPool _pool;
    private readonly PinnedBuffer _buffer;
    private int _returned;

    internal PinnedMemoryOwner(PinnedPool pool, PinnedBuffer buffer)
    {
        _pool = pool;
        _buffer = buffer;
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
            _pool.Return(_buffer);
        }
    }
}
