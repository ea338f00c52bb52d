namespace Vfio.Virtio;

/// <summary>A ring whose pages are not neighbours in this process: the checked path, where each access looks its page up.</summary>
internal readonly unsafe struct PagedRing(RingAddresses.RingAreas areas) : IRingMemory
{
    // SAFETY: as FlatRing; an index beyond an area's pages throws. Areas cut nothing that is aligned to 16 bytes or less.
    private readonly RingArea _descriptors = areas.Descriptors;
    private readonly RingArea _driver = areas.Driver;
    private readonly RingArea _device = areas.Device;

    public ulong* Descriptor(uint index) => (ulong*)_descriptors.At(16 * index);

    public ulong* Descriptors(uint index, ref int count)
    {
        byte* first = _descriptors.At(16 * index, out uint together);
        count = (int)Math.Min((uint)count, together / 16);
        return (ulong*)first;
    }

    public ushort* Driver(uint word) => (ushort*)_driver.At(2 * word);

    public ushort* Device(uint word) => (ushort*)_device.At(2 * word);

    // The two halves may lie in two pages. Nobody looks before the index says so.
    public void WriteUsed(uint index, ulong element)
    {
        uint offset = 4 + (8 * index);
        *(uint*)_device.At(offset) = (uint)(element & uint.MaxValue);
        *(uint*)_device.At(offset + 4) = (uint)(element >> 32);
    }
}
