using System.Runtime.InteropServices;

namespace Vfio;

/// <summary>An epoch of <see cref="GracePeriod"/> with its cache lines, and the ones that the prefetcher pairs with them, to itself.</summary>
[StructLayout(LayoutKind.Explicit, Size = 256)]
internal struct PaddedEpoch
{
    [FieldOffset(128)]
    public long Value;
}
