namespace Vfio.Virtio;

/// <summary>How a device queue reaches its ring. Implemented by structs only and used as a type argument, so that the queue's
/// code is compiled anew for each and the call disappears.</summary>
internal unsafe interface IRingMemory
{
    // SAFETY, for every method here: the caller's index is inside the part, by its own count or mask; the maker of the ring vouched
    // for the part's bytes. Each pointer is good for what is named, and nothing behind it.

    /// <summary>A descriptor: 16 bytes, aligned to 16.</summary>
    ulong* Descriptor(uint index);

    /// <summary>Descriptors that follow each other.</summary>
    /// <param name="index">The first.</param>
    /// <param name="count">How many are wanted, at least 1, all inside; how many lie together, at least 1.</param>
    ulong* Descriptors(uint index, ref int count);

    /// <summary>A 16-bit word of the driver area. Words 0 and 1 may be read as one (a packed ring's event suppression).</summary>
    ushort* Driver(uint word);

    /// <summary>A 16-bit word of the device area. Words 0 and 1 may be written as one.</summary>
    ushort* Device(uint word);

    /// <summary>Writes an element of a split ring's used ring, which stands behind flags and index in the device area.</summary>
    void WriteUsed(uint index, ulong element);
}
