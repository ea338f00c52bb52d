using System.Buffers;

namespace Vfio;

/// <summary>A pool as .NET's own APIs know it: its buffers as <see cref="Memory{T}"/>. Each rent makes one small object; where that matters, rent
/// from the pool itself.</summary>
/// <remarks>Thread-safe. What is written through such memory nobody reports, so the whole buffer counts as written in the pool's record
/// (<see cref="PinnedPool.Dirty"/>), from the rent to the return and once after it, and answers are a superset. Disposing it does nothing; the
/// pool has an owner already.</remarks>
public sealed class PinnedMemoryPool : MemoryPool<byte>
{
    private readonly PinnedPool _pool;

    /// <summary>Shows a pool.</summary>
    /// <param name="pool">The pool.</param>
    public PinnedMemoryPool(PinnedPool pool)
    {
        ArgumentNullException.ThrowIfNull(pool);
        _pool = pool;
    }

    /// <inheritdoc/>
    public override int MaxBufferSize => _pool.BufferSize;

    /// <summary>Rents a buffer; disposing the result returns it.</summary>
    /// <param name="minBufferSize">Bytes wanted, or -1 for any; at most <see cref="MaxBufferSize"/>.</param>
    /// <returns>The buffer, as a <see cref="PinnedMemoryOwner"/>.</returns>
    /// <exception cref="Linux.LinuxException">All buffers are out.</exception>
    public override IMemoryOwner<byte> Rent(int minBufferSize = -1)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(minBufferSize, MaxBufferSize);
        ArgumentOutOfRangeException.ThrowIfLessThan(minBufferSize, -1);
        return new PinnedMemoryOwner(_pool, _pool.Rent());
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        // The pool is not ours.
    }
}
