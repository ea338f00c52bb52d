using System.Runtime.InteropServices;

namespace Vfio.Litmus;

/// <summary>A number with its cache lines to itself.</summary>
[StructLayout(LayoutKind.Explicit, Size = 256)]
internal struct PaddedLong
{
    [FieldOffset(128)]
    public long Value;
}
