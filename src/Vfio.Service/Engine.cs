using System.Diagnostics.CodeAnalysis;
using Vfio.Linux;

namespace Vfio.Service;

/// <summary>Pools, devices and ports by name: what the daemon holds, and what a verb without a daemon hosts in its own process.</summary>
/// <remarks>Thread-safe. Disposing takes memory from the devices only after they are closed or stopped.</remarks>
public sealed class Engine : IDisposable
{
    private readonly Lock _gate = new();
    private readonly SortedDictionary<string, EnginePool> _pools = new(StringComparer.Ordinal);
    private readonly HashSet<string> _making = [];
    private readonly List<AddressSpace> _spaces = [];
    private bool _disposed;

    /// <summary>Makes an engine with no pools.</summary>
    /// <param name="kernel">The kernel; the running one by default.</param>
    /// <param name="sysfs">Where <c>/sys</c> and <c>/proc</c> are; the real ones by default.</param>
    /// <param name="log">Takes a line for each thing that happens on a port and is worth one, from any thread; nobody by default.</param>
    public Engine(IKernel? kernel = null, Sysfs? sysfs = null, Action<string>? log = null)
    {
        Kernel = kernel ?? LinuxKernel.Instance;
        Bus = new PciBus(sysfs);
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

    /// <inheritdoc/>
    /// <exception cref="LinuxException">A pool could not be unpinned; the others were.</exception>
    public void Dispose()
    {
        // Before the pools that their frames are in.
        Ports.Dispose();
        lock (_gate)
        {
            if (_disposed)
            {
                return;
            }

            _disposed = true;
            try
            {
                foreach (EnginePool pool in _pools.Values)
                {
                    pool.Destroy();
                }
            }
            finally
            {
                // The kernel unmaps and unpins with the container whatever a pool could not.
                foreach (AddressSpace space in _spaces)
                {
                    space.Dispose();
                }

                _spaces.Clear();
                _pools.Clear();
            }
        }
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

    /// <summary>The device in a pool's address space, opened into it if it is nowhere yet.</summary>
    internal OpenDevice GetDevice(EnginePool pool, PciAddress address)
    {
        lock (_gate)
        {
            return SpaceOf([address], pool.Space).Add(address);
        }
    }

    internal PoolPlanInfo PlanPool(PoolRequest request)
    {
        PinnedPoolOptions options = request.ToOptions(Bus, null);
        if (request.Devices.Count == 0)
        {
            PinLimits usual = PinLimits.Usual(Bus.Sysfs);
            return PoolPlanInfo.Of(PoolPlan.For(options, usual, Bus.Sysfs), usual);
        }

        lock (_gate)
        {
            AddressSpace? known = _spaces.Find(s => request.Devices.Any(d => s.Find(d) is not null));
            using AddressSpace? opened = known is null ? AddressSpace.Open(Kernel, Bus, request.Devices) : null;
            Pinner pinner = (known ?? opened!).Pinner;
            pinner.Iommu.Refresh();
            return PoolPlanInfo.Of(PoolPlan.For(options, pinner, Bus.Sysfs), PinLimits.Of(pinner.Iommu, Bus.Sysfs));
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

        AddressSpace space = Reserve(request);
        PinnedPool? memory = null;
        try
        {
            // Populating takes seconds for large pools, and others go on meanwhile.
            memory = PinnedPool.Create(options, space.Pinner, Bus.Sysfs);
            context.Cancellation.ThrowIfCancellationRequested();
            var pool = new EnginePool(memory, space);
            lock (_gate)
            {
                _making.Remove(request.Name);
                _pools.Add(request.Name, pool);
            }

            return pool;
        }
        catch
        {
            try
            {
                memory?.Destroy();
            }
            finally
            {
                lock (_gate)
                {
                    _making.Remove(request.Name);
                    Leave(space);
                }
            }

            throw;
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
        lock (_gate)
        {
            EnginePool pool = _pools.TryGetValue(name, out EnginePool? found) ? found : throw NoSuchPool(name);
            pool.Destroy();
            _pools.Remove(name);
            Leave(pool.Space);
        }
    }

    private AddressSpace Reserve(PoolRequest request)
    {
        lock (_gate)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            if (_pools.ContainsKey(request.Name) || _making.Contains(request.Name))
            {
                throw new LinuxException(
                    "pool create",
                    Errno.EEXIST,
                    request.Name,
                    "there is a pool of this name",
                    $"choose another name, or destroy that one with: vfiopin pool destroy {request.Name}");
            }

            AddressSpace? space = _spaces.Find(s => request.Devices.Any(d => s.Find(d) is not null));
            if (space is null)
            {
                space = AddressSpace.Open(Kernel, Bus, request.Devices);
                _spaces.Add(space);
            }
            else
            {
                SpaceOf(request.Devices, space);
                foreach (PciAddress device in request.Devices)
                {
                    space.Add(device);
                }
            }

            space.References++;
            _making.Add(request.Name);
            return space;
        }
    }

    // A device is in one address space only (its group is in one container).
    private AddressSpace SpaceOf(IReadOnlyList<PciAddress> devices, AddressSpace wanted)
    {
        foreach (PciAddress device in devices)
        {
            if (_spaces.Find(s => s != wanted && s.Find(device) is not null) is { } other)
            {
                string pools = string.Join(", ", _pools.Values.Where(p => p.Space == other).Select(p => p.Name));
                throw new LinuxException(
                    "open device",
                    Errno.EBUSY,
                    $"{device}",
                    $"it reaches other pools ({pools}), and a device has one address space",
                    "use one of those pools, or destroy them first");
            }
        }

        return wanted;
    }

    private void Leave(AddressSpace space)
    {
        if (--space.References == 0)
        {
            _spaces.Remove(space);
            space.Dispose();
        }
    }
}
