using System.Runtime.CompilerServices;

namespace Vfio.Virtio;

/// <summary>Makes a checked index harmless in mispredicted execution too: a peer's index that selects memory of ours is checked
/// with a branch, and the processor may run past that branch with the bad index.</summary>
internal static class Clamp
{
    /// <summary>The index when it is below the bound, else 0, without a branch.</summary>
    /// <param name="index">Below 2^31.</param>
    /// <param name="bound">1 to 2^31 - 1.</param>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static uint Index(uint index, uint bound) => unchecked(index & (uint)((int)(index - bound) >> 31));
}
