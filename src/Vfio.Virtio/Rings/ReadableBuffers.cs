namespace Vfio.Virtio;

/// <summary>Buffers that the device reads.</summary>
internal readonly struct ReadableBuffers : IBufferAccess
{
    /// <inheritdoc/>
    public static DeviceAccess Access => DeviceAccess.Read;
}
