namespace Vfio.Virtio;

/// <summary>Sectors of a block device, both ends inclusive. Never empty.</summary>
public readonly record struct SectorRange
{
    /// <summary>Bytes of a sector, on every virtio block device.</summary>
    public const int SectorBytes = 512;

    /// <summary>Makes the range from its first to its last sector.</summary>
    /// <param name="first">The first sector.</param>
    /// <param name="last">The last sector, not below <paramref name="first"/>.</param>
    /// <exception cref="ArgumentOutOfRangeException">The last sector is below the first.</exception>
    public SectorRange(ulong first, ulong last)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(last, first);
        First = first;
        Last = last;
    }

    /// <summary>The first sector.</summary>
    public ulong First { get; }

    /// <summary>The last sector.</summary>
    public ulong Last { get; }

    /// <summary>Sectors in the range.</summary>
    /// <exception cref="OverflowException">It is all of 2^64 sectors.</exception>
    public ulong Count => checked(Last - First + 1);

    /// <summary>The sectors of a buffer that starts at a sector.</summary>
    /// <param name="first">The first sector.</param>
    /// <param name="buffer">The buffer, a multiple of 512 bytes and not empty.</param>
    /// <returns>The range.</returns>
    /// <exception cref="ArgumentException">The buffer is no whole number of sectors.</exception>
    /// <exception cref="OverflowException">The range passes the last sector number.</exception>
    public static SectorRange Of(ulong first, PinnedBuffer buffer) =>
        buffer.Length > 0 && buffer.Length % SectorBytes == 0
            ? new SectorRange(first, checked(first + (ulong)(buffer.Length / SectorBytes) - 1))
            : throw new ArgumentException($"a buffer of {buffer.Length} bytes is no whole number of sectors", nameof(buffer));

    /// <inheritdoc/>
    public override string ToString() => $"{First}-{Last}";
}
