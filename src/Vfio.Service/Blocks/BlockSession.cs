using System.Globalization;
using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.Service;

/// <summary>A block device in use for one call: taken from others, driven over memory of a pool. Ending it resets the device's
/// queue before the memory goes back to the pool.</summary>
internal sealed class BlockSession : IDisposable
{
    private const int PieceBytes = 128 * 1024;
    private const ulong TwoMiB = 2ul << 20;

    private readonly Stack<Action> _undo = new();
    private readonly EnginePool _pool;
    private readonly VirtioBlockOptions _options;
    private bool _isTemporary;
    private PinnedBuffer _arena;
    private PinnedBuffer _data;

    private BlockSession(Engine engine, BlockTransferRequest request, OperationContext context)
    {
        _pool = FindPool(engine, request, context);
        _options = new VirtioBlockOptions
        {
            Depth = request.QueueDepth,
            UseInterrupts = request.Interrupt,
            DeviceWrote = _pool.Pool.Dirty is null ? null : MarkWritten,
        };
    }

    public VirtioBlockDevice Disk { get; private set; } = null!;

    /// <summary>The pool's name, or null for one made for the call.</summary>
    public string? PoolName => _isTemporary ? null : _pool.Name;

    /// <summary>Memory for the data of each request in flight.</summary>
    public IReadOnlyList<PinnedBuffer> Buffers { get; private set; } = [];

    /// <summary>Whether every request has ended as the driver saw it; else nobody knows what the device wrote.</summary>
    public bool EndedWell { get; set; }

    public static BlockSession Open(Engine engine, BlockTransferRequest request, OperationContext context)
    {
        if (request.QueueDepth is < 1 or > 1024)
        {
            throw new LinuxException("blk", Errno.EINVAL, $"queue depth {request.QueueDepth}", "a depth is 1 to 1024", "choose another depth");
        }

        var session = new BlockSession(engine, request, context);
        try
        {
            session.Start(engine, request);
            return session;
        }
        catch
        {
            session.Dispose();
            throw;
        }
    }

    /// <summary>Reports bytes that the processor wrote into a buffer of the pool.</summary>
    public void Wrote(in PinnedBuffer bytes) => _pool.Pool.Dirty?.Written(bytes);

    public void Dispose()
    {
        while (_undo.TryPop(out Action? step))
        {
            step();
        }
    }

    private EnginePool FindPool(Engine engine, BlockTransferRequest request, OperationContext context)
    {
        EnginePool? pool = request.Pool is not null ? engine.GetPool(request.Pool) : engine.FindPoolOf(request.Device);
        if (pool is null)
        {
            // Room for the data in flight, the ring and the requests' headers, and not less than two huge pages.
            ulong size = Math.Max(2 * TwoMiB, ((ulong)request.QueueDepth * (PieceBytes + 8192) + TwoMiB - 1) / TwoMiB * TwoMiB);
            string name = string.Create(CultureInfo.InvariantCulture, $"blk-{Guid.NewGuid():n}");
            pool = engine.CreatePool(
                new PoolRequest(name, size) { Devices = [request.Device], PageSizes = ["2MiB", "thp", "4KiB"] }, context);
            _undo.Push(() => engine.DestroyPool(name));
            _isTemporary = true;
        }

        try
        {
            _undo.Push(pool.Use($"blk on {request.Device}", PoolShare.Lent));
            return pool;
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    private void Start(Engine engine, BlockTransferRequest request)
    {
        OpenDevice device = engine.GetDevice(_pool, request.Device);
        _undo.Push(device.Take("blk"));
        PinnedPool memory = _pool.Pool;
        _arena = memory.Allocate(_options.ArenaBytes);
        _undo.Push(() => memory.Free(_arena));
        _data = AllocateData(memory, request.QueueDepth);
        _undo.Push(() => memory.Free(_data));
        Track(memory);
        Disk = VirtioBlockDevice.Open(device.Device, _arena, _options);
        _undo.Push(Disk.Dispose);
        int piece = Math.Min(PieceBytes, _data.Length);
        Buffers = [.. Enumerable.Range(0, _data.Length / piece).Select(i => _data.Slice(i * piece, piece))];
    }

    // From the moment that the device knows of the memory until its queue is reset, it may write any of it.
    private void Track(PinnedPool memory)
    {
        if (memory.Dirty is not { } dirty)
        {
            return;
        }

        foreach (PinnedBuffer buffer in (PinnedBuffer[])[_arena, _data])
        {
            dirty.BeginDeviceWrite(buffer);
            // What was written is marked request by request; after a failure nobody knows, and all of it counts.
            _undo.Push(() =>
            {
                if (EndedWell)
                {
                    dirty.EndDeviceWrite(buffer, 0);
                }
                else
                {
                    dirty.EndDeviceWrite(buffer);
                }
            });
        }

        // The driver's own stores into the ring go on as long as the device is open.
        _undo.Push(() => dirty.Written(_arena));
    }

    private void MarkWritten(IovaRange range)
    {
        PinnedBuffer from = _data.Length > 0 && range.First >= _data.Iova && range.Last.Value < _data.Iova.Value + (ulong)_data.Length ? _data : _arena;
        _pool.Pool.Dirty!.Written(from.Slice((int)(range.First - from.Iova), (int)range.Length));
    }

    // Half as much, and half again, where the pool has not that much in one piece: fewer requests are in flight then.
    private static PinnedBuffer AllocateData(PinnedPool memory, int depth)
    {
        for (long bytes = (long)depth * PieceBytes; ; bytes /= 2)
        {
            try
            {
                return memory.Allocate((int)Math.Min(bytes, 1 << 30));
            }
            catch (LinuxException e) when (e.Errno == Errno.ENOMEM && bytes > PieceBytes / 2)
            {
                continue;
            }
        }
    }
}
