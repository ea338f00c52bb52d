using Vfio.Linux;
using Vfio.VhostUser;

namespace Vfio.Service;

/// <summary>A network back-end: ports that come and go while others run, the pollers that serve them, and who sends to whom.</summary>
/// <remarks>Thread-safe; one change at a time.</remarks>
public sealed class NetEngine : IDisposable
{
    /// <summary>How long a poller may stay in one batch before what waits for it gives up.</summary>
    public static readonly TimeSpan StallTimeout = TimeSpan.FromSeconds(5);

    private readonly Lock _change = new();
    private readonly PollerSet _pollers;
    private NetPort[] _ports = [];
    private bool _disposed;

    /// <summary>Makes an engine without ports.</summary>
    /// <param name="log">Takes a line for each thing worth one, from any thread.</param>
    public NetEngine(Action<string> log)
    {
        Log = log;
        _pollers = new PollerSet(this);
    }

    /// <summary>The ports at this moment.</summary>
    // ORDER: acquire of a whole array; pairs with the release where it is replaced.
    public IReadOnlyList<NetPort> Ports => Volatile.Read(ref _ports);

    /// <summary>What the IOTLBs of the present sessions did, of those where VIRTIO_F_ACCESS_PLATFORM was negotiated.</summary>
    public IReadOnlyList<IotlbCounters> Iotlbs =>
        [.. Ports.Select(p => p.Session).OfType<VhostUserSession>()
            .Where(s => s.Features.HasFlag(Virtio.VirtioFeatures.AccessPlatform)).Select(s => s.Iotlb)];

    /// <summary>Completed when no port of now will meet another front-end.</summary>
    public Task Ended => Task.WhenAll(Ports.Select(p => p.Ended));

    internal GracePeriod Grace { get; } = new();

    /// <summary>How long its ports wait for a poller; tests wait less.</summary>
    internal TimeSpan Patience { get; init; } = StallTimeout;

    /// <summary>After how long a poller looks at its rings though no kick came. Every kick wakes it by itself, as tests show that have it
    /// sleep for ever; this bounds what a front-end that loses one can do to itself.</summary>
    internal TimeSpan LongestSleep { get; init; } = TimeSpan.FromMilliseconds(50);

    internal Action<string> Log { get; }

    /// <summary>Adds a port, which front-ends may connect to as soon as this returns.</summary>
    /// <param name="options">What it shall be like.</param>
    /// <param name="pool">Where its frames are on their way: buffers of <see cref="FrameBatch.BufferSize"/> bytes, 32 for each pair
    /// of queues. Outlives the port.</param>
    /// <returns>The port.</returns>
    /// <exception cref="LinuxException">A name is taken, ports cannot be connected so, or a socket, a processor or the pool would not
    /// have it; nothing changed.</exception>
    public NetPort Add(NetPortOptions options, PinnedPool pool)
    {
        ArgumentNullException.ThrowIfNull(options);
        lock (_change)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            NetPort? peer = PeerFor(options);
            var port = new NetPort(options, this);
            try
            {
                port.Pollers.AddRange(_pollers.Acquire(options.Processors));
                // ORDER: release of a whole array; pairs with the acquire in Ports. Before it has lanes: where these cannot be taken down
                // again it stays, and can be removed later.
                Volatile.Write(ref _ports, [.. _ports, port]);
                port.MakeLanes(pool);
                port.Connect();
                if (peer is not null)
                {
                    Link(port, peer);
                }

                port.Start();
                return port;
            }
            catch
            {
                TakeDown(port);
                throw;
            }
        }
    }

    /// <summary>Removes a port: ends its session, waits until no poller touches it, and gives its buffers back.</summary>
    /// <param name="port">The port.</param>
    /// <exception cref="TimeoutException">A poller is stuck; the port stays, without a session, and can be removed later.</exception>
    public void Remove(NetPort port)
    {
        ArgumentNullException.ThrowIfNull(port);
        lock (_change)
        {
            TakeDown(port);
        }
    }

    /// <summary>Everything that happened on rings of one direction, over all ports.</summary>
    /// <param name="fromGuests">True for transmit rings, false for receive rings.</param>
    /// <returns>The sum.</returns>
    public NetQueueCounters Total(bool fromGuests)
    {
        var sum = new NetQueueCounters();
        foreach (NetPort port in Ports)
        {
            sum.Add(port.Total(fromGuests));
        }

        return sum;
    }

    /// <summary>What front-ends said to the present ports, over all sessions.</summary>
    /// <returns>The sum.</returns>
    public SessionCounters Said() =>
        Ports.Aggregate(default(SessionCounters), static (sum, port) => sum.With(port.Said));

    /// <summary>Removes all ports.</summary>
    public void Dispose()
    {
        lock (_change)
        {
            _disposed = true;
            while (_ports is [.., var last])
            {
                TakeDown(last);
            }
        }
    }

    // Whom a new port is to be connected with: whom it names, or who waits for one of its name.
    private NetPort? PeerFor(NetPortOptions options)
    {
        if (_ports.Any(p => p.Name == options.Name))
        {
            throw new LinuxException("port add", Errno.EEXIST, options.Name, "there is a port of this name",
                $"choose another name, or remove that one with: vfiopin port remove {options.Name}");
        }

        NetPort? peer = Array.Find(_ports, p => options.Peer is null ? p.Peer == options.Name : p.Name == options.Peer);
        string? wrong = (options, peer) switch
        {
            ({ Forwards: false }, _) when options.Peer is not null || peer is not null => "only ports that forward (io, macswap) have a peer",
            _ when options.Peer == options.Name => "a port cannot be its own peer; without one it sends frames back",
            (_, null) => null,
            (_, { Options.Forwards: false }) => $"port {peer.Name} does not forward",
            _ when options.QueuePairs != peer.QueuePairs => $"port {peer.Name} has {peer.QueuePairs} pairs of queues, and this one {options.QueuePairs}: "
                + "pairs feed each other one for one",
            _ when peer.Peer is { } other && other != options.Name && _ports.Any(p => p.Name == other) => $"port {peer.Name} is connected with {other}",
            _ => null,
        };
        return wrong is null ? peer : throw new LinuxException("port add", Errno.EINVAL, options.Name, wrong, "look at the ports with: vfiopin port list");
    }

    // Two lanes must never feed one ring: no lane has a target while it is told another.
    private void Link(NetPort port, NetPort peer)
    {
        NetPort? former = peer.Target;
        port.Target = peer.Target = null;
        try
        {
            Grace.Wait(Patience);
        }
        catch (TimeoutException)
        {
            peer.Target = former;
            throw;
        }

        (port.Peer, peer.Peer) = (peer.Name, port.Name);
        (port.Target, peer.Target) = (peer, port);
    }

    // Each step can be done again when a later one failed.
    private void TakeDown(NetPort port)
    {
        port.Disconnect();
        foreach (NetPort other in _ports.Where(p => p != port && p.Target == port))
        {
            // Until a port of that name is there again its frames go nowhere: back to where they came from they must not.
            other.Target = null;
        }

        port.RemoveLanes();
        _pollers.Release(port.Pollers);
        // ORDER: as in Add.
        Volatile.Write(ref _ports, [.. _ports.Where(p => p != port)]);
    }
}
