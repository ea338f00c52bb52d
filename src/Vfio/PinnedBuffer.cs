namespace Vfio;

/// <summary>A piece of pinned memory as a device and this process see it: contiguous in both address spaces.</summary>
/// <param name="Iova">Where the device finds its first byte.</param>
/// <param name="Address">Where this process finds its first byte.</param>
/// <param name="Length">Bytes.</param>
/// <remarks>A value, not an owner: it is valid while what it was rented from says so. As long as a device may write it, only
/// volatile accesses and system calls may touch it, and what is read is copied before it is checked.</remarks>
public readonly unsafe record struct PinnedBuffer(Iova Iova, HostAddress Address, int Length)
{
    /// <summary>The bytes. For memory that no device is writing at this time.</summary>
    // SAFETY: the renter holds [Address, Address + Length) for as long as it uses this value; pools never unmap a rented buffer.
    public Span<byte> Span => new((void*)Address.Value, Length);

    /// <summary>Part of the buffer.</summary>
    /// <param name="start">Where the part starts.</param>
    /// <param name="length">Bytes of the part.</param>
    /// <returns>The part.</returns>
    /// <exception cref="ArgumentOutOfRangeException">The part is not wholly inside.</exception>
    public PinnedBuffer Slice(int start, int length)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(start);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(start, Length);
        ArgumentOutOfRangeException.ThrowIfNegative(length);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(length, Length - start);
        return new PinnedBuffer(Iova + (ulong)start, Address + (ulong)start, length);
    }
}
