using System.Diagnostics.CodeAnalysis;
using System.Runtime.ExceptionServices;
using Vfio.Linux;

namespace Vfio.Service;

/// <summary>Pools, devices and ports by name: what the daemon holds, and what a verb without a daemon hosts in its own process.</summary>
/// <remarks>Thread-safe. What takes long, such as opening a device, populating or unmapping, holds up only those who want the same device or pool.
/// Disposing takes memory from the devices only after they are closed or stopped.</remarks>
public sealed class Engine : IDisposable
{
    // Held shortly: never while the kernel opens, closes, populates or unmaps.
    private readonly Lock _gate = new();
    private readonly SortedDictionary<string, EnginePool> _pools = new(StringComparer.Ordinal);
    private readonly HashSet<string> _making = [];
    private readonly AddressSpaces _spaces;
    private bool _disposed;

    /// <summary>Makes an engine with no pools.</summary>
    /// <param name="kernel">The kernel; the running one by default.</param>
    /// <param name="sysfs">Where <c>/sys</c> and <c>/proc</c> are; the real ones by default.</param>
    /// <param name="log">Takes a line for each thing that happens on a port and is worth one, from any thread; nobody by default.</param>
    public Engine(IKernel? kernel = null, Sysfs? sysfs = null, Action<string>? log = null)
    {
        Kernel = kernel ?? LinuxKernel.Instance;
        Bus = new PciBus(sysfs);
        _spaces = new AddressSpaces(Kernel, Bus);
        Net = new NetEngine(log ?? (static _ => { }));
        Ports = new EnginePorts(this, Net);
    }

    /// <summary>The kernel that is asked.</summary>
    public IKernel Kernel { get; }

    /// <summary>The PCI devices of the machine.</summary>
    public PciBus Bus { get; }

    /// <summary>The network ports, as they are served.</summary>
    public NetEngine Net { get; }

    /// <summary>How many pools there are.</summary>
    public int PoolCount
    {
        get
        {
            lock (_gate)
            {
                return _pools.Count;
            }
        }
    }

    internal EnginePorts Ports { get; }

    internal IReadOnlyList<EnginePool> Pools
    {
        get
        {
            lock (_gate)
            {
                return [.. _pools.Values];
            }
        }
    }

    /// <summary>Destroys the pools and closes the devices. No operation is running any more.</summary>
    /// <exception cref="LinuxException">A pool could not be unpinned, the first of those; the others were.</exception>
    public void Dispose()
    {
        // Before the pools that their frames are in.
        Ports.Dispose();
        EnginePool[] pools;
        lock (_gate)
        {
            if (_disposed)
            {
                return;
            }

            _disposed = true;
            pools = [.. _pools.Values];
            _pools.Clear();
        }

        ExceptionDispatchInfo? stuck = null;
        foreach (EnginePool pool in pools)
        {
            try
            {
                pool.Destroy();
            }
            catch (LinuxException e)
            {
                stuck ??= ExceptionDispatchInfo.Capture(e);
            }
        }

        // The kernel unmaps and unpins with the container whatever a pool could not.
        _spaces.End();
        stuck?.Throw();
    }

    internal static LinuxException NoSuchPool(string name) => new(
        "pool lookup", Errno.ENOENT, name, "there is no pool of this name", "list the pools with: vfiopin pool list");

    internal EnginePool GetPool(string name)
    {
        lock (_gate)
        {
            return _pools.TryGetValue(name, out EnginePool? pool) ? pool : throw NoSuchPool(name);
        }
    }

    /// <summary>The pool that a device reaches: the first by name, or null.</summary>
    internal EnginePool? FindPoolOf(PciAddress address)
    {
        lock (_gate)
        {
            return _pools.Values.FirstOrDefault(p => p.Space.Find(address) is not null);
        }
    }

    /// <summary>The device in a pool's address space, opened into it if it is nowhere yet. The caller uses the pool.</summary>
    internal OpenDevice GetDevice(EnginePool pool, PciAddress address, CancellationToken cancellation) =>
        _spaces.Open(pool.Space, address, cancellation);

    internal PoolPlanInfo PlanPool(PoolRequest request, OperationContext context)
    {
        PinnedPoolOptions options = request.ToOptions(Bus, null);
        if (request.Devices.Count == 0)
        {
            PinLimits usual = PinLimits.Usual(Bus.Sysfs);
            return PoolPlanInfo.Of(PoolPlan.For(options, usual, Bus.Sysfs), usual);
        }

        const string User = "a plan";
        AddressSpace space = _spaces.Enter(request.Devices, User, add: false, context.Cancellation);
        try
        {
            Pinner pinner = space.Pinner;
            pinner.Iommu.Refresh();
            return PoolPlanInfo.Of(PoolPlan.For(options, pinner, Bus.Sysfs), PinLimits.Of(pinner.Iommu, Bus.Sysfs));
        }
        finally
        {
            _spaces.Leave(space, User);
        }
    }

    [SuppressMessage("Reliability", "CA2000:Dispose objects before losing scope", Justification = "held by the pool, or destroyed when a step throws")]
    internal EnginePool CreatePool(PoolRequest request, OperationContext context)
    {
        PinnedPoolOptions options = request.ToOptions(Bus, new ProgressMeter("populating", context.Progress));
        if (request.Devices.Count == 0)
        {
            throw new LinuxException(
                "pool create", Errno.EINVAL, request.Name, "memory is pinned for a device, and none was named", "name one with --device BDF");
        }

        Reserve(request.Name);
        try
        {
            AddressSpace space = _spaces.Enter(request.Devices, request.Name, add: true, context.Cancellation);
            try
            {
                var pool = new EnginePool(PinnedPool.Create(options, space.Pinner, Bus.Sysfs), space);
                if (context.Cancellation.IsCancellationRequested)
                {
                    Undo(pool);
                    throw new OperationCanceledException(context.Cancellation);
                }

                Publish(pool);
                return pool;
            }
            catch
            {
                LeaveUnlessPublished(request.Name, space);
                throw;
            }
        }
        finally
        {
            lock (_gate)
            {
                _making.Remove(request.Name);
            }
        }
    }

    internal PoolInfo ChangePool(string name, string what, PoolShare share, Action<PinnedPool> change)
    {
        EnginePool pool = GetPool(name);
        Action end = pool.Use(what, share);
        try
        {
            change(pool.Pool);
        }
        finally
        {
            end();
        }

        return PoolInfo.Of(pool);
    }

    /// <summary>Keeps a pool from being destroyed, and all devices that reach it from being driven by others.</summary>
    /// <returns>Call it once at the end.</returns>
    internal Action Occupy(EnginePool pool, string user)
    {
        var taken = new Stack<Action>();
        void End()
        {
            while (taken.TryPop(out Action? give))
            {
                give();
            }
        }

        try
        {
            lock (_gate)
            {
                taken.Push(pool.Use(user, PoolShare.Whole));
                foreach (OpenDevice device in pool.Space.Devices)
                {
                    taken.Push(device.Take(user));
                }
            }

            return End;
        }
        catch
        {
            End();
            throw;
        }
    }

    internal void DestroyPool(string name)
    {
        EnginePool pool = GetPool(name);
        pool.Destroy();
        lock (_gate)
        {
            _pools.Remove(name);
        }

        _spaces.Leave(pool.Space, name);
    }

    private void Reserve(string name)
    {
        lock (_gate)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            if (_pools.ContainsKey(name) || !_making.Add(name))
            {
                throw new LinuxException(
                    "pool create",
                    Errno.EEXIST,
                    name,
                    "there is a pool of this name",
                    $"choose another name, or destroy that one with: vfiopin pool destroy {name}");
            }
        }
    }

    private void Publish(EnginePool pool)
    {
        lock (_gate)
        {
            _pools.Add(pool.Name, pool);
        }
    }

    // Destroys a pool that nobody has seen. One that cannot be unpinned is shown instead, to be destroyed later.
    private void Undo(EnginePool pool)
    {
        try
        {
            pool.Destroy();
        }
        catch (LinuxException)
        {
            Publish(pool);
            throw;
        }
    }

    private void LeaveUnlessPublished(string name, AddressSpace space)
    {
        lock (_gate)
        {
            if (_pools.ContainsKey(name))
            {
                return;
            }
        }

        _spaces.Leave(space, name);
    }
}
