namespace Vfio;

/// <summary>Host memory that a device shall reach.</summary>
/// <param name="Host">The memory, whole pages of 4 KiB.</param>
/// <param name="Access">What the device may do with it.</param>
/// <param name="Backing">What pages it is made of; it decides only how IOVAs are aligned, so a wrong value costs speed, nothing else.</param>
public readonly record struct PinRange(HostRange Host, DmaAccess Access, MemoryBacking Backing = MemoryBacking.Pages4KiB);
