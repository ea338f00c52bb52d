using Vfio.Linux;

namespace Vfio.Testing;

/// <summary>A call that a simulated kernel got.</summary>
/// <param name="Name">As the kernel names it: <c>open</c>, <c>VFIO_IOMMU_MAP_DMA</c>.</param>
/// <param name="Arguments">Its arguments, decoded.</param>
/// <param name="Result">What it returned: zero or more, or a negated errno.</param>
public sealed record SimCall(string Name, string Arguments, long Result)
{
    /// <summary>The error, or <see cref="Errno.None"/>.</summary>
    public Errno Errno => Result is < 0 and >= -4095 ? (Errno)(-Result) : Errno.None;

    public override string ToString() =>
        $"{Name}({Arguments}) = {(Errno == Errno.None ? $"{Result}" : $"{Errno}")}";
}
