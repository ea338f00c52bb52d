using Vfio.Linux;

namespace Vfio;

/// <summary>Memory that could not be pinned, and why.</summary>
/// <param name="Host">The memory.</param>
/// <param name="Errno">What the kernel said, or would have said.</param>
/// <param name="Cause">Why.</param>
/// <param name="Cure">What to do about it.</param>
public sealed record PinFailure(HostRange Host, Errno Errno, string? Cause, string? Cure)
{
    /// <summary>The failure as an exception.</summary>
    internal LinuxException Exception() => new("VFIO_IOMMU_MAP_DMA", Errno, $"{Host} ({ByteSize.Text(Host.Length)})", Cause, Cure);
}
