using Vfio.Linux;

namespace Vfio.Service;

/// <summary>A pool of the engine: its memory, the address space that it is pinned in, and who uses it.</summary>
internal sealed class EnginePool(PinnedPool pool, AddressSpace space)
{
    private readonly Lock _gate = new();
    private readonly List<(string User, PoolShare Share)> _users = [];
    private bool _ending;
    private bool _ended;

    public PinnedPool Pool { get; } = pool;

    public AddressSpace Space { get; } = space;

    public string Name => Pool.Name;

    /// <summary>Keeps the pool from being destroyed.</summary>
    /// <param name="user">Who, for the message that the destroyer gets.</param>
    /// <param name="share">How it is used: who has or reads all of the memory must not lose it to a shrink, nor share it with one who writes.</param>
    /// <returns>Call it once when the use ends.</returns>
    /// <exception cref="LinuxException">There is no such pool any more, or another use is in the way (EBUSY).</exception>
    public Action Use(string user, PoolShare share = PoolShare.Lent)
    {
        lock (_gate)
        {
            if (_ended)
            {
                throw Engine.NoSuchPool(Name);
            }

            if (_ending)
            {
                throw Ending(user);
            }

            if (_users.Find(u => Excludes(u.Share, share) || Excludes(share, u.Share)) is { User: { } other })
            {
                throw new LinuxException(user, Errno.EBUSY, Name, $"the pool is in use by {other}", "wait until that has ended, or end it");
            }

            _users.Add((user, share));
        }

        return () =>
        {
            lock (_gate)
            {
                _users.Remove((user, share));
            }
        };
    }

    /// <summary>Destroys the memory. Others are refused meanwhile, and not held up.</summary>
    /// <exception cref="LinuxException">Somebody uses it (EBUSY), or it could not be unpinned; it is there as before.</exception>
    public void Destroy()
    {
        lock (_gate)
        {
            if (_ended)
            {
                throw Engine.NoSuchPool(Name);
            }

            if (_ending)
            {
                throw Ending("pool destroy");
            }

            if (_users.Count > 0)
            {
                throw new LinuxException(
                    "pool destroy",
                    Errno.EBUSY,
                    Name,
                    $"the pool is in use by {string.Join(", ", _users.Select(u => u.User))}",
                    "wait until that has ended, or end it");
            }

            _ending = true;
        }

        try
        {
            Pool.Destroy();
            lock (_gate)
            {
                _ended = true;
            }
        }
        finally
        {
            lock (_gate)
            {
                _ending = false;
            }
        }
    }

    private LinuxException Ending(string user) => new(user, Errno.EBUSY, Name, "the pool is being destroyed", "wait until that has ended");

    private static bool Excludes(PoolShare one, PoolShare other) => one switch
    {
        PoolShare.Whole => other != PoolShare.Reads,
        PoolShare.Cuts => other == PoolShare.Reads,
        _ => false,
    };
}
