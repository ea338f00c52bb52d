namespace Vfio.Virtio;

/// <summary>What the device does with a run of buffers, as a type argument: the ring's innermost loop is compiled anew for each, and what
/// depends on it is a constant there. Implemented by structs only.</summary>
internal interface IBufferAccess
{
    /// <summary>What it does.</summary>
    static abstract DeviceAccess Access { get; }
}
