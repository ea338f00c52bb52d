using System.Runtime.InteropServices;

namespace Vfio.Virtio;

/// <summary>A chain that the device is done with.</summary>
/// <param name="Id">The chain's <see cref="DescriptorChain.Id"/>.</param>
/// <param name="Slots">The chain's <see cref="DescriptorChain.Slots"/>.</param>
/// <param name="Written">Bytes that the device wrote into it.</param>
[StructLayout(LayoutKind.Sequential)]
public readonly record struct UsedChain(ushort Id, ushort Slots, uint Written);
