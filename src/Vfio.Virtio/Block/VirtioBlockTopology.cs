namespace Vfio.Virtio;

/// <summary>How a block device's blocks lie on its medium (virtio 1.3, 5.2.4 "Device configuration layout").</summary>
/// <param name="PhysicalBlockExponent">A physical block is 2 to the power of this logical blocks.</param>
/// <param name="AlignmentOffset">Logical blocks from the start of the device to the first physical boundary.</param>
/// <param name="MinIoBlocks">The smallest transfer that costs no extra, in logical blocks.</param>
/// <param name="OptimalIoBlocks">The best transfer for a stream, in logical blocks; 0 where the device does not say.</param>
public sealed record VirtioBlockTopology(
    byte PhysicalBlockExponent, byte AlignmentOffset, ushort MinIoBlocks, uint OptimalIoBlocks);
