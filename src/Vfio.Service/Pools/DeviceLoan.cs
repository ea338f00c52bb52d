using System.Globalization;

namespace Vfio.Service;

/// <summary>A device and memory of a pool that it reaches, in use for one call. Ending it undoes everything in the reverse order:
/// what drives the device is reset before the memory goes back to the pool.</summary>
internal sealed class DeviceLoan : IDisposable
{
    private readonly Stack<Action> _undo = new();
    private readonly EnginePool _pool;
    private readonly bool _isTemporary;

    private DeviceLoan(EnginePool pool, bool isTemporary)
    {
        _pool = pool;
        _isTemporary = isTemporary;
    }

    /// <summary>The device.</summary>
    public VfioDevice Device { get; private set; } = null!;

    /// <summary>The pool's memory.</summary>
    public PinnedPool Memory => _pool.Pool;

    /// <summary>The pool's name, or null for one made for the call.</summary>
    public string? PoolName => _isTemporary ? null : _pool.Name;

    /// <summary>Whether all that the device did was seen; else nobody knows what it wrote.</summary>
    public bool EndedWell { get; set; }

    /// <summary>Takes a device, and a pool: the named one, else one that the device reaches, else one made for the call.</summary>
    /// <param name="engine">The engine.</param>
    /// <param name="use">What for, in one word.</param>
    /// <param name="device">The device.</param>
    /// <param name="pool">The pool's name, or null.</param>
    /// <param name="ifNone">What a pool made for the call is like; its name and devices are filled in.</param>
    /// <param name="context">What goes along with the call.</param>
    public static DeviceLoan Open(
        Engine engine, string use, PciAddress device, string? pool, PoolRequest ifNone, OperationContext context)
    {
        EnginePool? found = pool is not null ? engine.GetPool(pool) : engine.FindPoolOf(device);
        string name = string.Create(CultureInfo.InvariantCulture, $"{use}-{Guid.NewGuid():n}");
        var loan = new DeviceLoan(
            found ?? engine.CreatePool(ifNone with { Name = name, Devices = [device] }, context), found is null);
        try
        {
            if (loan._isTemporary)
            {
                loan.Defer(() => engine.DestroyPool(name));
            }

            loan.Defer(loan._pool.Use($"{use} on {device}", PoolShare.Lent));
            OpenDevice opened = engine.GetDevice(loan._pool, device, context.Cancellation);
            loan.Defer(opened.Take(use));
            loan.Device = opened.Device;
            return loan;
        }
        catch
        {
            loan.Dispose();
            throw;
        }
    }

    /// <summary>Adds what is to be undone at the end, before everything that was added earlier.</summary>
    public void Defer(Action undo) => _undo.Push(undo);

    /// <summary>Takes memory of the pool for as long as the loan lasts.</summary>
    public PinnedBuffer Allocate(int bytes)
    {
        PinnedBuffer buffer = Memory.Allocate(bytes);
        Defer(() => Memory.Free(buffer));
        return buffer;
    }

    /// <summary>Tells the pool's record, if it keeps one, that the device may write memory from now on until its queues are reset.</summary>
    /// <param name="rings">What the processor writes too, all the time.</param>
    /// <param name="buffers">What the processor writes only when it says so.</param>
    public void Track(PinnedBuffer rings, PinnedBuffer buffers)
    {
        if (Memory.Dirty is not { } dirty)
        {
            return;
        }

        foreach (PinnedBuffer buffer in (PinnedBuffer[])[rings, buffers])
        {
            dirty.BeginDeviceWrite(buffer);
            // What was written is marked as it is seen; after a failure nobody knows, and all of it counts.
            Defer(() =>
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

        Defer(() => dirty.Written(rings));
    }

    public void Dispose()
    {
        while (_undo.TryPop(out Action? step))
        {
            step();
        }
    }
}
