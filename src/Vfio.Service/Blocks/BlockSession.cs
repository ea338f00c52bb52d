using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.Service;

/// <summary>A block device in use for one call: taken from others, driven over memory of a pool. Ending it resets the device's
/// queue before the memory goes back to the pool.</summary>
internal sealed class BlockSession : IDisposable
{
    private const int PieceBytes = 128 * 1024;
    private const ulong TwoMiB = 2ul << 20;

    private readonly DeviceLoan _loan;
    private readonly VirtioBlockOptions _options;
    private PinnedBuffer _arena;
    private PinnedBuffer _data;

    private BlockSession(DeviceLoan loan, BlockTransferRequest request)
    {
        _loan = loan;
        _options = new VirtioBlockOptions
        {
            Depth = request.QueueDepth,
            UseInterrupts = request.Interrupt,
            DeviceWrote = loan.Memory.Dirty is null ? null : MarkWritten,
        };
    }

    public VirtioBlockDevice Disk { get; private set; } = null!;

    /// <summary>The pool's name, or null for one made for the call.</summary>
    public string? PoolName => _loan.PoolName;

    /// <summary>Memory for the data of each request in flight.</summary>
    public IReadOnlyList<PinnedBuffer> Buffers { get; private set; } = [];

    /// <summary>Whether every request has ended as the driver saw it; else nobody knows what the device wrote.</summary>
    public bool EndedWell
    {
        get => _loan.EndedWell;
        set => _loan.EndedWell = value;
    }

    public static BlockSession Open(Engine engine, BlockTransferRequest request, OperationContext context)
    {
        if (request.QueueDepth is < 1 or > 1024)
        {
            throw new LinuxException("blk", Errno.EINVAL, $"queue depth {request.QueueDepth}", "a depth is 1 to 1024", "choose another depth");
        }

        // Room for the data in flight, the ring and the requests' headers, and not less than two huge pages.
        ulong size = Math.Max(2 * TwoMiB, ((ulong)request.QueueDepth * (PieceBytes + 8192) + TwoMiB - 1) / TwoMiB * TwoMiB);
        var ifNone = new PoolRequest("blk", size) { PageSizes = ["2MiB", "thp", "4KiB"] };
        var session = new BlockSession(DeviceLoan.Open(engine, "blk", request.Device, request.Pool, ifNone, context), request);
        try
        {
            session.Start(request);
            return session;
        }
        catch
        {
            session.Dispose();
            throw;
        }
    }

    /// <summary>Reports bytes that the processor wrote into a buffer of the pool.</summary>
    public void Wrote(in PinnedBuffer bytes) => _loan.Memory.Dirty?.Written(bytes);

    public void Dispose() => _loan.Dispose();

    private void Start(BlockTransferRequest request)
    {
        _arena = _loan.Allocate(_options.ArenaBytes);
        _data = AllocateData(request.QueueDepth);
        _loan.Track(_arena, _data);
        Disk = VirtioBlockDevice.Open(_loan.Device, _arena, _options);
        _loan.Defer(Disk.Dispose);
        int piece = Math.Min(PieceBytes, _data.Length);
        Buffers = [.. Enumerable.Range(0, _data.Length / piece).Select(i => _data.Slice(i * piece, piece))];
    }

    private void MarkWritten(IovaRange range)
    {
        PinnedBuffer from = _data.Length > 0 && range.First >= _data.Iova && range.Last.Value < _data.Iova.Value + (ulong)_data.Length ? _data : _arena;
        _loan.Memory.Dirty!.Written(from.Slice((int)(range.First - from.Iova), (int)range.Length));
    }

    // Half as much, and half again, where the pool has not that much in one piece: fewer requests are in flight then.
    private PinnedBuffer AllocateData(int depth)
    {
        for (long bytes = (long)depth * PieceBytes; ; bytes /= 2)
        {
            try
            {
                return _loan.Allocate((int)Math.Min(bytes, 1 << 30));
            }
            catch (LinuxException e) when (e.Errno == Errno.ENOMEM && bytes > PieceBytes / 2)
            {
                continue;
            }
        }
    }
}
