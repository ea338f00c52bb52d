namespace Vfio.Virtio;

/// <summary>A block request that the device has ended.</summary>
/// <param name="Operation">What it did.</param>
/// <param name="Sectors">Which sectors; none for a flush.</param>
/// <param name="Buffer">Its memory, the caller's again; none for a flush.</param>
/// <param name="Token">What the caller named it.</param>
/// <param name="Status">How it ended.</param>
public readonly record struct BlockCompletion(
    BlockOperation Operation, SectorRange? Sectors, PinnedBuffer Buffer, long Token, BlockStatus Status);
