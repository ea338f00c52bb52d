using System.Runtime.CompilerServices;

namespace Vfio.VhostUser;

/// <summary>Makes a checked address harmless in mispredicted execution too: the processor may run past the check with an offset that
/// failed it, and what it then reads can be told from the caches.</summary>
internal static class Speculation
{
    // Off only to measure what it costs. A constant by the time that the datapath is compiled for good.
    private static readonly bool IsOff =
        AppContext.TryGetSwitch("Vfio.VhostUser.SpeculationClampOff", out bool off) && off;

    /// <summary>The offset when it is at most <paramref name="last"/>, else 0, without a branch.</summary>
    /// <param name="offset">Any.</param>
    /// <param name="last">Below 2^63.</param>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Clamp(ulong offset, ulong last) =>
        // Bit 63 is set when the offset is 2^63 or more, or when the difference is negative.
        Clear(offset, offset | unchecked(last - offset));

    /// <summary>The offset, or 0 where a check failed, without a branch.</summary>
    /// <param name="offset">Any.</param>
    /// <param name="check">The check's outcome: bit 63 is set where it failed.</param>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Clear(ulong offset, ulong check) => IsOff ? offset : unchecked(offset & (ulong)~((long)check >> 63));
}
