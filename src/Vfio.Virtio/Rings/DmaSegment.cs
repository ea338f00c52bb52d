namespace Vfio.Virtio;

/// <summary>A piece of pinned memory in a chain, and what the device may do with it.</summary>
/// <param name="Buffer">The memory, at least 1 byte. It stays pinned until the chain is completed or the queue was reset.</param>
/// <param name="Access">Device-readable or device-writable; all device-readable pieces of a chain come first.</param>
public readonly record struct DmaSegment(PinnedBuffer Buffer, DeviceAccess Access);
