using Vfio.Linux;

namespace Vfio.Virtio;

/// <summary>A request in flight: what the caller asked for, and its header and status byte in pinned memory. Pooled.</summary>
internal sealed unsafe class BlockRequest
{
    /// <summary>Header and status byte, each on a line of its own: the device reads the one and writes the other.</summary>
    public const int ArenaBytes = 128;

    private const int StatusOffset = 64;
    private const byte NoStatus = 0xFF;

    private readonly PinnedBuffer _arena;

    public BlockRequest(PinnedBuffer arena)
    {
        _arena = arena;
        Header = arena.Slice(0, sizeof(virtio_blk_outhdr));
        Status = arena.Slice(StatusOffset, 1);
    }

    public PinnedBuffer Header { get; }

    public PinnedBuffer Status { get; }

    public BlockOperation Operation { get; private set; }

    public SectorRange? Sectors { get; private set; }

    public PinnedBuffer Buffer { get; private set; }

    public long Token { get; private set; }

    /// <summary>What the device wrote as status, read once; <see cref="NoStatus"/> where it wrote none.</summary>
    // SAFETY: one byte of the arena, which lives as long as the device is open.
    public byte TakeStatus() => *(byte*)Status.Address.Value;

    /// <summary>Bytes that the device writes when it does all of it.</summary>
    public ulong ExpectedBytes => 1 + (Operation == BlockOperation.Read ? (ulong)Buffer.Length : 0);

    public void Prepare(BlockOperation operation, SectorRange? sectors, PinnedBuffer buffer, long token)
    {
        Operation = operation;
        Sectors = sectors;
        Buffer = buffer;
        Token = token;
        // virtio 1.3, 5.2.6: type, reserved, sector; little-endian.
        var header = new virtio_blk_outhdr
        {
            type = operation switch
            {
                BlockOperation.Read => virtio_blk.VIRTIO_BLK_T_IN,
                BlockOperation.Write => virtio_blk.VIRTIO_BLK_T_OUT,
                _ => virtio_blk.VIRTIO_BLK_T_FLUSH,
            },
            sector = sectors?.First ?? 0,
        };
        // SAFETY: both lie in this request's own piece of the arena; the request is not in flight.
        *(virtio_blk_outhdr*)_arena.Address.Value = header;
        *(byte*)Status.Address.Value = NoStatus;
    }
}
