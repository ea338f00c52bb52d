using System.Runtime.CompilerServices;

namespace Vfio.Virtio;

/// <summary>A ring each of whose parts lies in one piece: its addresses are held ready, an access is a load or a store.</summary>
internal readonly unsafe struct FlatRing : IRingMemory
{
    // SAFETY: IRingMemory's: whoever made the ring vouched for its parts, whoever asks for an index that it lies in its part.
    private readonly ulong* _descriptors;
    private readonly ushort* _driver;
    private readonly ushort* _device;

    public FlatRing(RingAddresses ring)
    {
        _descriptors = (ulong*)ring.Descriptors.Value;
        _driver = (ushort*)ring.Driver.Value;
        _device = (ushort*)ring.Device.Value;
    }

    /// <summary>Descriptors only.</summary>
    public FlatRing(ulong* descriptors) => _descriptors = descriptors;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public ulong* Descriptor(uint index) => _descriptors + (2 * (nuint)index);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public ulong* Descriptors(uint index, ref int count) => Descriptor(index);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public ushort* Driver(uint word) => _driver + word;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public ushort* Device(uint word) => _device + word;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void WriteUsed(uint index, ulong element) => ((ulong*)(_device + 2))[index] = element;
}
