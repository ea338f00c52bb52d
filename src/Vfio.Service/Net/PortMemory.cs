using Vfio.Linux;
using Vfio.VhostUser;

namespace Vfio.Service;

/// <summary>The memory that a port's frames are in on their way: a part of a pool, a pool made for the port and pinned for its
/// devices, or memory that is not pinned at all.</summary>
internal sealed class PortMemory
{
    private readonly Action _release;

    private PortMemory(PinnedPool pool, string? poolName, Action release)
    {
        Pool = pool;
        PoolName = poolName;
        _release = release;
    }

    public PinnedPool Pool { get; }

    /// <summary>The engine's pool that it is in, or null.</summary>
    public string? PoolName { get; }

    public static PortMemory Take(Engine engine, PortRequest request, OperationContext context)
    {
        if (request.Pool is not null)
        {
            return Borrow(engine.GetPool(request.Pool), request);
        }

        string name = $"port-{request.Name}";
        var wanted = new PoolRequest(name, SizeOf(request))
        {
            PageSizes = request.PageSizes,
            Devices = request.Devices,
            BufferSize = FrameBatch.BufferSize,
        };
        if (request.Devices.Count == 0)
        {
            PinnedPool plain = PinnedPool.Create(wanted.ToOptions(engine.Bus, null) with { TrackDirty = false }, sysfs: engine.Bus.Sysfs);
            return new PortMemory(plain, null, plain.Destroy);
        }

        EnginePool pool = engine.CreatePool(wanted, context);
        try
        {
            Action end = pool.Use($"port {request.Name}");
            return new PortMemory(pool.Pool, name, () =>
            {
                end();
                engine.DestroyPool(name);
            });
        }
        catch
        {
            engine.DestroyPool(name);
            throw;
        }
    }

    /// <summary>Gives it back. No buffer of it is lent any more.</summary>
    public void Release() => _release();

    private static PortMemory Borrow(EnginePool pool, PortRequest request)
    {
        Action end = pool.Use($"port {request.Name}");
        if (pool.Pool.BufferSize < FrameBatch.BufferSize)
        {
            end();
            throw new LinuxException(
                "port add",
                Errno.EINVAL,
                $"{request.Name}, pool {pool.Name}",
                $"its buffers of {pool.Pool.BufferSize} bytes do not hold every frame",
                $"make the pool with --buffer-size {FrameBatch.BufferSize >> 10}KiB");
        }

        return new PortMemory(pool.Pool, pool.Name, end);
    }

    // Whole pages of the largest kind that it may be made of.
    private static ulong SizeOf(PortRequest request)
    {
        ulong needed = (ulong)request.Queues * FrameBatch.Capacity * FrameBatch.BufferSize;
        ulong size = request.PoolSize ?? needed;
        if (size < needed)
        {
            throw new LinuxException(
                "port add",
                Errno.EINVAL,
                $"{request.Name}, {size} bytes for frames",
                $"{needed >> 20} MiB are needed for so many queues",
                "ask for more with --pool-size, or for nothing");
        }

        ulong page = request.PageSizes.Max(p => MemoryBackings.TryParse(p, out MemoryBacking backing) ? backing.PageSize() : 1);
        ulong rest = size % page;
        // What no machine has is refused where the pool is made.
        return rest == 0 || size > ulong.MaxValue - page ? size : size - rest + page;
    }
}
