using Vfio.Linux;

namespace Vfio.Service;

/// <summary>A pool of the engine: its memory, the address space that it is pinned in, and who uses it.</summary>
internal sealed class EnginePool(PinnedPool pool, AddressSpace space)
{
    private readonly Lock _gate = new();
    private readonly List<string> _users = [];
    private bool _ended;

    public PinnedPool Pool { get; } = pool;

    public AddressSpace Space { get; } = space;

    public string Name => Pool.Name;

    /// <summary>Keeps the pool from being destroyed.</summary>
    /// <param name="user">Who, for the message that the destroyer gets.</param>
    /// <returns>Call it once when the use ends.</returns>
    public Action Use(string user)
    {
        lock (_gate)
        {
            if (_ended)
            {
                throw Engine.NoSuchPool(Name);
            }

            _users.Add(user);
        }

        return () =>
        {
            lock (_gate)
            {
                _users.Remove(user);
            }
        };
    }

    /// <summary>Destroys the memory.</summary>
    /// <exception cref="LinuxException">Somebody uses it (EBUSY); nothing changed.</exception>
    public void Destroy()
    {
        lock (_gate)
        {
            if (_users.Count > 0)
            {
                throw new LinuxException(
                    "pool destroy",
                    Errno.EBUSY,
                    Name,
                    $"the pool is in use by {string.Join(", ", _users)}",
                    "wait until that has ended, or end it");
            }

            Pool.Destroy();
            _ended = true;
        }
    }
}
