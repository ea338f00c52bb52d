namespace Vfio.Service;

/// <summary>Names a block device: the parameters of <c>blk.info</c>.</summary>
/// <param name="Device">The device, on vfio-pci.</param>
public sealed record BlockQuery(PciAddress Device)
{
    /// <summary>The pool to use, or null for one that the device reaches, else one made for the call.</summary>
    public string? Pool { get; init; }
}

/// <summary>A transfer from or to a block device: the parameters of <c>blk.read</c> and <c>blk.write</c>. The data goes to, or
/// comes from, the descriptor that goes along with the call: a file (from its offset 0), or a Unix stream socket.</summary>
/// <param name="Device">The device, on vfio-pci.</param>
public sealed record BlockTransferRequest(PciAddress Device)
{
    /// <summary>The pool to use, or null for one that the device reaches, else one made for the call.</summary>
    public string? Pool { get; init; }

    /// <summary>The first byte on the device, a multiple of its block size.</summary>
    public ulong Offset { get; init; }

    /// <summary>Bytes, a multiple of the block size; null for all up to the device's end (reading only).</summary>
    public ulong? Length { get; init; }

    /// <summary>Requests in flight at most, 1 to 1024.</summary>
    public int QueueDepth { get; init; } = 16;

    /// <summary>Wait for interrupts instead of polling.</summary>
    public bool Interrupt { get; init; }

    /// <summary>Compute the SHA-256 of the data.</summary>
    public bool Sha256 { get; init; }
}

/// <summary>What a block device is like.</summary>
/// <param name="Device">The device.</param>
/// <param name="Bytes">Its capacity.</param>
/// <param name="Sectors">Its capacity in sectors of 512 bytes.</param>
/// <param name="BlockSize">Bytes of a logical block.</param>
/// <param name="MaxSegmentBytes">Bytes of the largest piece of a request, or null where nothing limits.</param>
/// <param name="MaxSegments">Pieces of the largest request.</param>
/// <param name="ReadOnly">Whether it refuses writes.</param>
/// <param name="HasFlush">Whether it has a cache to flush.</param>
/// <param name="QueueSize">Entries of the queue.</param>
/// <param name="Features">What was negotiated of the transport and the ring.</param>
public sealed record BlockInfo(
    PciAddress Device,
    ulong Bytes,
    ulong Sectors,
    uint BlockSize,
    uint? MaxSegmentBytes,
    uint MaxSegments,
    bool ReadOnly,
    bool HasFlush,
    int QueueSize,
    string Features);

/// <summary>What a transfer did.</summary>
/// <param name="Device">The device.</param>
/// <param name="Pool">The pool that the data went through, or null for one made for the call.</param>
/// <param name="Offset">The first byte on the device.</param>
/// <param name="Bytes">Bytes moved.</param>
/// <param name="Seconds">How long it took.</param>
/// <param name="Sha256">The SHA-256 of the data in hexadecimal, or null when it was not asked for.</param>
public sealed record BlockTransferResult(PciAddress Device, string? Pool, ulong Offset, ulong Bytes, double Seconds, string? Sha256);
