using System.Globalization;

namespace Vfio.VhostUser;

/// <summary>A guest physical address: what a guest puts into descriptors when no IOMMU stands between (with one, it is an <see cref="Iova"/>).</summary>
/// <param name="Value">The address in bytes.</param>
public readonly record struct GuestPhysicalAddress(ulong Value) : IComparable<GuestPhysicalAddress>
{
    /// <summary>The address <paramref name="bytes"/> further on.</summary>
    /// <param name="address">Where to start.</param>
    /// <param name="bytes">How far.</param>
    /// <returns>The sum.</returns>
    /// <exception cref="OverflowException">The sum does not fit in 64 bits.</exception>
    public static GuestPhysicalAddress operator +(GuestPhysicalAddress address, ulong bytes) => new(checked(address.Value + bytes));

    /// <summary>The bytes from <paramref name="right"/> up to <paramref name="left"/>.</summary>
    /// <param name="left">The higher address.</param>
    /// <param name="right">The lower address.</param>
    /// <returns>The distance.</returns>
    /// <exception cref="OverflowException"><paramref name="left"/> is below <paramref name="right"/>.</exception>
    public static ulong operator -(GuestPhysicalAddress left, GuestPhysicalAddress right) => checked(left.Value - right.Value);

    /// <summary>Compares by value.</summary>
    public static bool operator <(GuestPhysicalAddress left, GuestPhysicalAddress right) => left.Value < right.Value;

    /// <summary>Compares by value.</summary>
    public static bool operator >(GuestPhysicalAddress left, GuestPhysicalAddress right) => left.Value > right.Value;

    /// <summary>Compares by value.</summary>
    public static bool operator <=(GuestPhysicalAddress left, GuestPhysicalAddress right) => left.Value <= right.Value;

    /// <summary>Compares by value.</summary>
    public static bool operator >=(GuestPhysicalAddress left, GuestPhysicalAddress right) => left.Value >= right.Value;

    /// <inheritdoc/>
    public int CompareTo(GuestPhysicalAddress other) => Value.CompareTo(other.Value);

    /// <inheritdoc/>
    public override string ToString() => "0x" + Value.ToString("x", CultureInfo.InvariantCulture);
}
