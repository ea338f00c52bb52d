namespace Vfio.Virtio;

/// <summary>What a driver queue knows of a chain that it gave out.</summary>
/// <param name="Descriptors">Descriptors of the ring that it takes; 0 where nothing is out.</param>
/// <param name="Writable">Bytes that the device may write.</param>
/// <param name="Sequence">The count of chains ever added before it. 64 bits: one that the device keeps for long is overtaken by
/// any number of others.</param>
internal readonly record struct OutstandingChain(ushort Descriptors, uint Writable, ulong Sequence)
{
    // Added but not published is not the device's yet.
    public bool IsPublished(ulong published) => Descriptors != 0 && Sequence < published;
}
