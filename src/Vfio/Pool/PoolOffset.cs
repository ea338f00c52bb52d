using System.Globalization;

namespace Vfio;

/// <summary>A place in a pool, counted in bytes from its start, whatever addresses its segments have. Exports count so.</summary>
/// <param name="Value">Bytes.</param>
public readonly record struct PoolOffset(ulong Value) : IComparable<PoolOffset>
{
    /// <summary>The place <paramref name="bytes"/> further on.</summary>
    /// <param name="offset">Where to start.</param>
    /// <param name="bytes">How far.</param>
    /// <returns>The sum.</returns>
    /// <exception cref="OverflowException">The sum does not fit in 64 bits.</exception>
    public static PoolOffset operator +(PoolOffset offset, ulong bytes) => new(checked(offset.Value + bytes));

    /// <summary>The bytes from <paramref name="right"/> up to <paramref name="left"/>.</summary>
    /// <param name="left">The later place.</param>
    /// <param name="right">The earlier place.</param>
    /// <returns>The distance.</returns>
    /// <exception cref="OverflowException"><paramref name="left"/> is before <paramref name="right"/>.</exception>
    public static ulong operator -(PoolOffset left, PoolOffset right) => checked(left.Value - right.Value);

    /// <summary>Compares by value.</summary>
    public static bool operator <(PoolOffset left, PoolOffset right) => left.Value < right.Value;

    /// <summary>Compares by value.</summary>
    public static bool operator >(PoolOffset left, PoolOffset right) => left.Value > right.Value;

    /// <summary>Compares by value.</summary>
    public static bool operator <=(PoolOffset left, PoolOffset right) => left.Value <= right.Value;

    /// <summary>Compares by value.</summary>
    public static bool operator >=(PoolOffset left, PoolOffset right) => left.Value >= right.Value;

    /// <inheritdoc/>
    public int CompareTo(PoolOffset other) => Value.CompareTo(other.Value);

    /// <inheritdoc/>
    public override string ToString() => "+0x" + Value.ToString("x", CultureInfo.InvariantCulture);
}
