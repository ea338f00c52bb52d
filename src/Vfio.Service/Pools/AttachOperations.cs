using Vfio.Linux;

namespace Vfio.Service;

/// <summary>What a process needs to use a pool: descriptors, and where each piece of memory is. Given to the command of
/// <c>vfiopin attach</c> in the environment variable <c>VFIOPIN_LAYOUT</c>.</summary>
/// <param name="Pool">The pool.</param>
/// <param name="Size">Its bytes.</param>
/// <param name="Container">The container's descriptor.</param>
/// <param name="Groups">The groups' descriptors.</param>
/// <param name="Devices">The devices' descriptors.</param>
/// <param name="Segments">The pieces of memory.</param>
public sealed record AttachLayout(
    string Pool,
    ulong Size,
    int Container,
    IReadOnlyList<AttachGroup> Groups,
    IReadOnlyList<AttachDevice> Devices,
    IReadOnlyList<AttachSegment> Segments)
{
    /// <summary>The same with other numbers for the descriptors.</summary>
    /// <param name="number">Gives the number to put in a number's place.</param>
    /// <returns>The layout.</returns>
    public AttachLayout Renumber(Func<int, int> number)
    {
        ArgumentNullException.ThrowIfNull(number);
        return this with
        {
            Container = number(Container),
            Groups = [.. Groups.Select(g => g with { Descriptor = number(g.Descriptor) })],
            Devices = [.. Devices.Select(d => d with { Descriptor = number(d.Descriptor) })],
            Segments = [.. Segments.Select(s => s with { Descriptor = number(s.Descriptor) })],
        };
    }
}

/// <summary>A group of an attached pool.</summary>
/// <param name="Number">The IOMMU group.</param>
/// <param name="Descriptor">Its descriptor.</param>
public sealed record AttachGroup(int Number, int Descriptor);

/// <summary>A device of an attached pool.</summary>
/// <param name="Address">The device.</param>
/// <param name="Descriptor">Its descriptor.</param>
public sealed record AttachDevice(PciAddress Address, int Descriptor);

/// <summary>A piece of memory of an attached pool: map <paramref name="Length"/> bytes of the descriptor, shared, from its start.</summary>
/// <param name="Offset">Bytes from the pool's start.</param>
/// <param name="Length">Bytes.</param>
/// <param name="Iova">Where the devices find its first byte.</param>
/// <param name="PageSize">Bytes of a page of it.</param>
/// <param name="Descriptor">Its memfd.</param>
public sealed record AttachSegment(ulong Offset, ulong Length, Iova Iova, ulong PageSize, int Descriptor);

/// <summary>Sharing a pool with another process.</summary>
public static class AttachOperations
{
    /// <summary>Hands the pool's memory and its devices to the caller, who has them as long as the session lasts: the pool is not
    /// destroyed and its devices are nobody else's meanwhile. The numbers in the result count the descriptors that come along.</summary>
    public static Operation<PoolName, AttachLayout> Attach { get; } = new(
        "pool.attach", static json => json.PoolName, static json => json.AttachLayout, Run);

    private static AttachLayout Run(Engine engine, PoolName request, OperationContext context)
    {
        EnginePool pool = engine.GetPool(request.Name);
        if (context.Hold is not { } hold)
        {
            throw new LinuxException("pool attach", Errno.EOPNOTSUPP, request.Name, "only a daemon's pool can be shared", "start one: vfiopin daemon &");
        }

        foreach (PoolSegment segment in pool.Pool.Segments.Where(s => s.File is null))
        {
            throw new LinuxException(
                "pool attach",
                Errno.EOPNOTSUPP,
                $"{request.Name}, segment at {segment.Offset}",
                "transparent huge pages have no file to share on this kernel",
                "make the pool of 2MiB, 1GiB or 4KiB pages");
        }

        Action end = engine.Occupy(pool, "an attached command");
        OpenDevice[] devices = [.. pool.Space.Devices];
        hold(() =>
        {
            // A command that was killed leaves its queues running, and the kernel resets nothing: the daemon has the device open
            // too. Where stopping one fails, pool and devices stay taken.
            foreach (OpenDevice device in devices)
            {
                Stop(device.Device);
            }

            end();
        });
        // It writes, and lets devices write, without telling: the record of written pages cannot be whole from here on.
        pool.Pool.Dirty?.NoteForeignWriter("an attached command");
        AddressSpace space = pool.Space;
        return new AttachLayout(
            pool.Name,
            pool.Pool.Length,
            context.Answer(space.ContainerDescriptor),
            [.. space.Groups.Select(g => new AttachGroup(g.Number, context.Answer(g.Descriptor)))],
            [.. space.Devices.Select(d => new AttachDevice(d.Address, context.Answer(d.Device.Descriptor)))],
            [.. pool.Pool.Segments.Select(s => new AttachSegment(
                s.Offset.Value, s.Length, s.Iova, s.Backing.PageSize(), context.Answer(s.File!)))]);
    }

    private static void Stop(VfioDevice device)
    {
        device.DisableBusMaster();
        if (device.CanReset)
        {
            device.Reset();
        }
    }
}
