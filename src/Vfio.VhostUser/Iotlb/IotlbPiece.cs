using Vfio.Virtio;

namespace Vfio.VhostUser;

/// <summary>A piece of a range that was looked up, all of one kind and, where mapped, all together in this process.</summary>
/// <param name="Kind">Whether it may be used, is not known (IOTLB miss), or may not be used so (IOTLB access fail).</param>
/// <param name="Range">The IOVAs.</param>
/// <param name="Host">Where the first byte is, if <paramref name="Kind"/> is <see cref="TranslationStatus.Translated"/>.</param>
public readonly record struct IotlbPiece(TranslationStatus Kind, IovaRange Range, HostAddress Host);
