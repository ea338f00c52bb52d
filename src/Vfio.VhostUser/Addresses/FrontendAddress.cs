using System.Globalization;

namespace Vfio.VhostUser;

/// <summary>A virtual address of the front-end process (the specification's "user address"): what ring addresses are given in when no IOMMU stands between. Means nothing in this process.</summary>
/// <param name="Value">The address in bytes.</param>
public readonly record struct FrontendAddress(ulong Value) : IComparable<FrontendAddress>
{
    /// <summary>The address <paramref name="bytes"/> further on.</summary>
    /// <param name="address">Where to start.</param>
    /// <param name="bytes">How far.</param>
    /// <returns>The sum.</returns>
    /// <exception cref="OverflowException">The sum does not fit in 64 bits.</exception>
    public static FrontendAddress operator +(FrontendAddress address, ulong bytes) => new(checked(address.Value + bytes));

    /// <summary>The bytes from <paramref name="right"/> up to <paramref name="left"/>.</summary>
    /// <param name="left">The higher address.</param>
    /// <param name="right">The lower address.</param>
    /// <returns>The distance.</returns>
    /// <exception cref="OverflowException"><paramref name="left"/> is below <paramref name="right"/>.</exception>
    public static ulong operator -(FrontendAddress left, FrontendAddress right) => checked(left.Value - right.Value);

    /// <summary>Compares by value.</summary>
    public static bool operator <(FrontendAddress left, FrontendAddress right) => left.Value < right.Value;

    /// <summary>Compares by value.</summary>
    public static bool operator >(FrontendAddress left, FrontendAddress right) => left.Value > right.Value;

    /// <summary>Compares by value.</summary>
    public static bool operator <=(FrontendAddress left, FrontendAddress right) => left.Value <= right.Value;

    /// <summary>Compares by value.</summary>
    public static bool operator >=(FrontendAddress left, FrontendAddress right) => left.Value >= right.Value;

    /// <inheritdoc/>
    public int CompareTo(FrontendAddress other) => Value.CompareTo(other.Value);

    /// <inheritdoc/>
    public override string ToString() => "0x" + Value.ToString("x", CultureInfo.InvariantCulture);
}
