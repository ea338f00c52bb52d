using System.Globalization;

namespace Vfio;

/// <summary>A virtual address of this process. Whether anything is mapped there is for its owner to know; converting to a
/// pointer is the unsafe step and is spelled out where it is done.</summary>
/// <param name="Value">The address in bytes.</param>
public readonly record struct HostAddress(ulong Value) : IComparable<HostAddress>
{
    /// <summary>The address <paramref name="bytes"/> further on.</summary>
    /// <param name="address">Where to start.</param>
    /// <param name="bytes">How far.</param>
    /// <returns>The sum.</returns>
    /// <exception cref="OverflowException">The sum does not fit in 64 bits.</exception>
    public static HostAddress operator +(HostAddress address, ulong bytes) => new(checked(address.Value + bytes));

    /// <summary>The bytes from <paramref name="right"/> up to <paramref name="left"/>.</summary>
    /// <param name="left">The higher address.</param>
    /// <param name="right">The lower address.</param>
    /// <returns>The distance.</returns>
    /// <exception cref="OverflowException"><paramref name="left"/> is below <paramref name="right"/>.</exception>
    public static ulong operator -(HostAddress left, HostAddress right) => checked(left.Value - right.Value);

    /// <summary>Compares by value.</summary>
    public static bool operator <(HostAddress left, HostAddress right) => left.Value < right.Value;

    /// <summary>Compares by value.</summary>
    public static bool operator >(HostAddress left, HostAddress right) => left.Value > right.Value;

    /// <summary>Compares by value.</summary>
    public static bool operator <=(HostAddress left, HostAddress right) => left.Value <= right.Value;

    /// <summary>Compares by value.</summary>
    public static bool operator >=(HostAddress left, HostAddress right) => left.Value >= right.Value;

    /// <inheritdoc/>
    public int CompareTo(HostAddress other) => Value.CompareTo(other.Value);

    /// <summary>Whether the address is a multiple of <paramref name="alignment"/>.</summary>
    /// <param name="alignment">Bytes, a power of two.</param>
    /// <returns>True when it is.</returns>
    public bool IsAligned(ulong alignment) => (Value & (alignment - 1)) == 0;

    /// <inheritdoc/>
    public override string ToString() => "0x" + Value.ToString("x", CultureInfo.InvariantCulture);
}
