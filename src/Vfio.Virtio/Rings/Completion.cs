namespace Vfio.Virtio;

/// <summary>A chain that the device is done with, as the driver learns it.</summary>
/// <param name="Id">What <see cref="DriverQueue.TryAdd"/> called it. Free for the next chain from now on.</param>
/// <param name="Written">Bytes that the device says it wrote, at most what it could.</param>
public readonly record struct Completion(ushort Id, uint Written);
