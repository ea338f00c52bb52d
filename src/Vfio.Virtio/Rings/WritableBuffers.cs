namespace Vfio.Virtio;

/// <summary>Buffers that the device writes.</summary>
internal readonly struct WritableBuffers : IBufferAccess
{
    /// <inheritdoc/>
    public static DeviceAccess Access => DeviceAccess.Write;
}
