namespace Vfio.Virtio;

/// <summary>What the peer did wrong with a ring. A value, never an exception: the peer can cause it as often as it likes. A
/// queue that has one stays broken.</summary>
public enum RingError
{
    /// <summary>Nothing. An empty ring is not an error.</summary>
    None,

    /// <summary>Split: the available or used index is further ahead of ours than the queue is long.</summary>
    IndexJump,

    /// <summary>Split: the available ring names a descriptor beyond the table.</summary>
    HeadOutOfRange,

    /// <summary>A chain goes on at a descriptor beyond its table.</summary>
    NextOutOfRange,

    /// <summary>A chain has more descriptors than the queue has entries, which is also how a loop ends.</summary>
    ChainTooLong,

    /// <summary>More descriptors are outstanding than the queue has entries: some were given out again before they were used.</summary>
    TooManyOutstanding,

    /// <summary>More pieces of memory than the caller's buffer of segments holds.</summary>
    TooManySegments,

    /// <summary>A chain describes more than 2^32 bytes.</summary>
    ChainTooLarge,

    /// <summary>A descriptor of no bytes.</summary>
    ZeroLength,

    /// <summary>A descriptor whose last byte lies beyond the address space.</summary>
    AddressWrap,

    /// <summary>A device-readable descriptor after a device-writable one.</summary>
    ReadableAfterWritable,

    /// <summary>A device-readable descriptor in a ring whose buffers the device only writes (<see cref="BufferUse.OnlyWrites"/>).</summary>
    NotWritable,

    /// <summary>A device-writable descriptor in a ring whose buffers the device only reads (<see cref="BufferUse.OnlyReads"/>).</summary>
    NotReadable,

    /// <summary>An indirect descriptor without VIRTIO_F_INDIRECT_DESC.</summary>
    IndirectNotNegotiated,

    /// <summary>An indirect table inside an indirect table.</summary>
    NestedIndirect,

    /// <summary>An indirect descriptor that also goes on, or (packed) that a chain leads to.</summary>
    IndirectInChain,

    /// <summary>An indirect table of no bytes or of a length that is no multiple of 16.</summary>
    IndirectLength,

    /// <summary>Memory that the peer may not use so.</summary>
    AccessDenied,

    /// <summary>Driver side: the device used a buffer that it does not have.</summary>
    UnknownBuffer,

    /// <summary>Driver side: the device says that it wrote more than the buffer holds.</summary>
    UsedLengthTooLarge,
}
