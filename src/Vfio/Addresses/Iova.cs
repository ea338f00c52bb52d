using System.Globalization;

namespace Vfio;

/// <summary>An I/O virtual address: what a device puts on the bus and the IOMMU translates. Never a host address.</summary>
/// <param name="Value">The address in bytes.</param>
public readonly record struct Iova(ulong Value) : IComparable<Iova>
{
    /// <summary>The address <paramref name="bytes"/> further on.</summary>
    /// <param name="address">Where to start.</param>
    /// <param name="bytes">How far.</param>
    /// <returns>The sum.</returns>
    /// <exception cref="OverflowException">The sum does not fit in 64 bits.</exception>
    public static Iova operator +(Iova address, ulong bytes) => new(checked(address.Value + bytes));

    /// <summary>The bytes from <paramref name="right"/> up to <paramref name="left"/>.</summary>
    /// <param name="left">The higher address.</param>
    /// <param name="right">The lower address.</param>
    /// <returns>The distance.</returns>
    /// <exception cref="OverflowException"><paramref name="left"/> is below <paramref name="right"/>.</exception>
    public static ulong operator -(Iova left, Iova right) => checked(left.Value - right.Value);

    /// <summary>Compares by value.</summary>
    public static bool operator <(Iova left, Iova right) => left.Value < right.Value;

    /// <summary>Compares by value.</summary>
    public static bool operator >(Iova left, Iova right) => left.Value > right.Value;

    /// <summary>Compares by value.</summary>
    public static bool operator <=(Iova left, Iova right) => left.Value <= right.Value;

    /// <summary>Compares by value.</summary>
    public static bool operator >=(Iova left, Iova right) => left.Value >= right.Value;

    /// <inheritdoc/>
    public int CompareTo(Iova other) => Value.CompareTo(other.Value);

    /// <summary>Whether the address is a multiple of <paramref name="alignment"/>.</summary>
    /// <param name="alignment">Bytes, a power of two.</param>
    /// <returns>True when it is.</returns>
    public bool IsAligned(ulong alignment) => (Value & (alignment - 1)) == 0;

    /// <inheritdoc/>
    public override string ToString() => "0x" + Value.ToString("x", CultureInfo.InvariantCulture);
}
