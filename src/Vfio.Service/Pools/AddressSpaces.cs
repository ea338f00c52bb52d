using Vfio.Linux;

namespace Vfio.Service;

/// <summary>The address spaces of an engine. A device is in one of them only, since its group is in one container.</summary>
/// <remarks>Thread-safe. Its lock is never held while a device is opened or closed: who opens one claims it first, who wants a claimed one
/// waits at its address space alone, and who wants one that is being closed waits for that.</remarks>
internal sealed class AddressSpaces(IKernel kernel, PciBus bus)
{
    private readonly Lock _gate = new();
    private readonly List<AddressSpace> _spaces = [];
    private bool _ended;

    /// <summary>Comes into the address space of some devices, which is opened if there is none.</summary>
    /// <param name="devices">The devices, at least one.</param>
    /// <param name="user">Who, as others are told.</param>
    /// <param name="add">Whether devices that are missing in an address space that is open are opened into it.</param>
    /// <param name="cancellation">Ends the wait for one that is being closed.</param>
    /// <returns>The address space, open until <see cref="Leave"/>.</returns>
    /// <exception cref="LinuxException">The devices are in different address spaces (EBUSY), or one could not be opened.</exception>
    public AddressSpace Enter(IReadOnlyList<PciAddress> devices, string user, bool add, CancellationToken cancellation)
    {
        AddressSpace space = Claim(devices, null, add, user, cancellation, out IReadOnlyList<PciAddress> claimed);
        try
        {
            space.Open(devices, add);
            return space;
        }
        catch
        {
            Leave(space, user);
            throw;
        }
        finally
        {
            Unclaim(claimed, space);
        }
    }

    /// <summary>The device in an address space that the caller keeps open; opened into it if it is nowhere yet.</summary>
    /// <exception cref="LinuxException">It is in another one (EBUSY), or could not be opened.</exception>
    public OpenDevice Open(AddressSpace space, PciAddress address, CancellationToken cancellation)
    {
        if (space.Find(address) is { } device)
        {
            return device;
        }

        Claim([address], space, add: true, user: null, cancellation, out IReadOnlyList<PciAddress> claimed);
        try
        {
            space.Open(claimed, add: true);
            return space.Find(address)!;
        }
        finally
        {
            Unclaim(claimed, space);
        }
    }

    /// <summary>Leaves an address space; the last one closes it, and has closed it on return.</summary>
    public void Leave(AddressSpace space, string user)
    {
        lock (_gate)
        {
            space.Users.Remove(user);
            // Whoever ends everything has begun to close it.
            if (space.Users.Count > 0 || space.IsClosing)
            {
                return;
            }

            space.IsClosing = true;
        }

        Close(space);
    }

    /// <summary>Closes all of them, whoever is in them, and lets nobody in any more.</summary>
    public void End()
    {
        AddressSpace[] open;
        lock (_gate)
        {
            _ended = true;
            open = [.. _spaces.Where(s => !s.IsClosing)];
            Array.ForEach(open, s => s.IsClosing = true);
        }

        Array.ForEach(open, Close);
    }

    private void Close(AddressSpace space)
    {
        try
        {
            space.Close();
        }
        finally
        {
            lock (_gate)
            {
                _spaces.Remove(space);
            }

            space.TellClosed();
        }
    }

    // Finds the address space, or makes one that is not open; says in it which devices are on their way, and who keeps it.
    private AddressSpace Claim(
        IReadOnlyList<PciAddress> devices, AddressSpace? wanted, bool add, string? user, CancellationToken cancellation, out IReadOnlyList<PciAddress> claimed)
    {
        while (true)
        {
            Task closed;
            lock (_gate)
            {
                ObjectDisposedException.ThrowIf(_ended, this);
                if (_spaces.Find(s => s.IsClosing && devices.Any(s.Has)) is not { } leaving)
                {
                    AddressSpace? known = wanted ?? _spaces.Find(s => devices.Any(s.Has));
                    AddressSpace space = known ?? Add();
                    ThrowIfElsewhere(devices, space);
                    // What is not to be added must not draw others into this address space either.
                    claimed = add || known is null ? devices : [];
                    foreach (PciAddress device in claimed)
                    {
                        space.Claim(device);
                    }

                    if (user is not null)
                    {
                        space.Users.Add(user);
                    }

                    return space;
                }

                closed = leaving.Closed;
            }

            closed.Wait(cancellation);
        }
    }

    private void Unclaim(IReadOnlyList<PciAddress> devices, AddressSpace space)
    {
        lock (_gate)
        {
            foreach (PciAddress device in devices)
            {
                space.Unclaim(device);
            }
        }
    }

    // The lock is held.
    private AddressSpace Add()
    {
        var space = new AddressSpace(kernel, bus);
        _spaces.Add(space);
        return space;
    }

    // The lock is held.
    private void ThrowIfElsewhere(IReadOnlyList<PciAddress> devices, AddressSpace wanted)
    {
        foreach (PciAddress device in devices)
        {
            if (_spaces.Find(s => s != wanted && s.Has(device)) is { } other)
            {
                throw new LinuxException(
                    "open device",
                    Errno.EBUSY,
                    $"{device}",
                    $"it reaches other pools ({string.Join(", ", other.Users)}), and a device has one address space",
                    "use one of those pools, or destroy them first");
            }
        }
    }
}
