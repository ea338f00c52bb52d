using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;

namespace Vfio;

/// <summary>What pages memory is made of.</summary>
public enum MemoryBacking
{
    /// <summary>Ordinary pages of 4 KiB.</summary>
    Pages4KiB,

    /// <summary>Transparent huge pages: 2 MiB where the kernel has them at hand, 4 KiB elsewhere.</summary>
    Transparent,

    /// <summary>Pages of 2 MiB out of the kernel's reserved huge pages.</summary>
    Huge2MiB,

    /// <summary>Pages of 1 GiB out of the kernel's reserved huge pages.</summary>
    Huge1GiB,
}

/// <summary>Names and sizes of <see cref="MemoryBacking"/>.</summary>
public static class MemoryBackings
{
    /// <summary>Bytes that a piece of such memory must be a multiple of.</summary>
    /// <param name="backing">The backing.</param>
    /// <returns>4 KiB, 2 MiB or 1 GiB.</returns>
    // On the straight way of each range that is pinned: neither a call nor a jump through a table.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong PageSize(this MemoryBacking backing) =>
        backing is MemoryBacking.Huge2MiB or MemoryBacking.Transparent ? 2 * ByteSize.MiB
        : backing == MemoryBacking.Pages4KiB ? 4 * ByteSize.KiB
        : backing == MemoryBacking.Huge1GiB ? ByteSize.GiB
        : throw Unknown(backing);

    /// <summary>Whether the pages come out of the kernel's reserved huge pages.</summary>
    /// <param name="backing">The backing.</param>
    /// <returns>True for 2 MiB and 1 GiB pages.</returns>
    public static bool IsReserved(this MemoryBacking backing) => backing is MemoryBacking.Huge2MiB or MemoryBacking.Huge1GiB;

    /// <summary>The name, as <see cref="TryParse"/> reads it.</summary>
    /// <param name="backing">The backing.</param>
    /// <returns><c>4KiB</c>, <c>thp</c>, <c>2MiB</c> or <c>1GiB</c>.</returns>
    public static string Name(this MemoryBacking backing) => backing switch
    {
        MemoryBacking.Huge1GiB => "1GiB",
        MemoryBacking.Huge2MiB => "2MiB",
        MemoryBacking.Transparent => "thp",
        MemoryBacking.Pages4KiB => "4KiB",
        _ => throw Unknown(backing),
    };

    /// <summary>Reads a name, in any case.</summary>
    /// <param name="text">The name.</param>
    /// <param name="backing">The backing.</param>
    /// <returns>False when there is no such backing.</returns>
    public static bool TryParse([NotNullWhen(true)] string? text, out MemoryBacking backing)
    {
        foreach (MemoryBacking candidate in Enum.GetValues<MemoryBacking>())
        {
            if (string.Equals(candidate.Name(), text, StringComparison.OrdinalIgnoreCase))
            {
                backing = candidate;
                return true;
            }
        }

        backing = default;
        return false;
    }

    private static ArgumentOutOfRangeException Unknown(MemoryBacking backing) => new(nameof(backing), backing, "no such backing");
}
