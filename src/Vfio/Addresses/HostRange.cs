namespace Vfio;

/// <summary>A range of virtual addresses of this process, both ends inclusive. Never empty.</summary>
public readonly record struct HostRange
{
    /// <summary>Makes the range from its first to its last byte.</summary>
    /// <param name="first">The first byte.</param>
    /// <param name="last">The last byte, not below <paramref name="first"/>.</param>
    /// <exception cref="ArgumentOutOfRangeException">The last byte is below the first.</exception>
    public HostRange(HostAddress first, HostAddress last)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(last, first);
        First = first;
        Last = last;
    }

    /// <summary>The first byte.</summary>
    public HostAddress First { get; }

    /// <summary>The last byte.</summary>
    public HostAddress Last { get; }

    /// <summary>Bytes in the range.</summary>
    /// <exception cref="OverflowException">It is the whole 64-bit space, whose length does not fit.</exception>
    public ulong Length => checked(Last.Value - First.Value + 1);

    /// <summary>The range of <paramref name="length"/> bytes at <paramref name="first"/>.</summary>
    /// <param name="first">The first byte.</param>
    /// <param name="length">Bytes, at least 1.</param>
    /// <returns>The range.</returns>
    /// <exception cref="ArgumentOutOfRangeException">The length is 0.</exception>
    /// <exception cref="OverflowException">The range passes the end of the address space.</exception>
    public static HostRange Of(HostAddress first, ulong length)
    {
        ArgumentOutOfRangeException.ThrowIfZero(length);
        return new HostRange(first, first + (length - 1));
    }

    /// <summary>Whether <paramref name="other"/> lies wholly in this range.</summary>
    /// <param name="other">The other range.</param>
    /// <returns>True when it does.</returns>
    public bool Contains(HostRange other) => First <= other.First && other.Last <= Last;

    /// <summary>Whether <paramref name="address"/> lies in this range.</summary>
    /// <param name="address">The address.</param>
    /// <returns>True when it does.</returns>
    public bool Contains(HostAddress address) => First <= address && address <= Last;

    /// <summary>Whether the two ranges share a byte.</summary>
    /// <param name="other">The other range.</param>
    /// <returns>True when they do.</returns>
    public bool Overlaps(HostRange other) => First <= other.Last && other.First <= Last;

    /// <inheritdoc/>
    public override string ToString() => $"{First}-{Last}";
}
