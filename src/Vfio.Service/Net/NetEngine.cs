using Vfio.VhostUser;

namespace Vfio.Service;

/// <summary>A network back-end: ports, the pollers that serve them, and the lanes between.</summary>
/// <remarks>Made and disposed by one thread.</remarks>
public sealed class NetEngine : IDisposable
{
    /// <summary>How long a poller may stay in one batch before what waits for it gives up.</summary>
    public static readonly TimeSpan StallTimeout = TimeSpan.FromSeconds(5);

    // Every kick wakes by itself; this bounds what a front-end that loses one can do to itself.
    internal static readonly TimeSpan LongestSleep = TimeSpan.FromMilliseconds(50);

    private readonly List<PortConnection> _connections = [];
    private readonly List<NetLane> _lanes = [];
    private readonly List<Poller> _pollers = [];
    private readonly List<NetPort> _ports = [];

    /// <summary>Makes it and begins to listen; front-ends are served from <see cref="Start"/> on.</summary>
    /// <param name="options">What it is to do.</param>
    /// <param name="pool">Where frames are on their way: buffers of <see cref="FrameBatch.BufferSize"/> bytes, 32 for each pair of
    /// queues of each port. Outlives this object.</param>
    /// <param name="log">Takes a line for each thing worth one, from any thread.</param>
    /// <exception cref="Linux.LinuxException">A socket or the pool would not have it.</exception>
    public NetEngine(NetEngineOptions options, PinnedPool pool, Action<string> log)
    {
        ArgumentNullException.ThrowIfNull(options);
        ArgumentOutOfRangeException.ThrowIfLessThan(options.Ports.Count, 1, nameof(options));
        ArgumentOutOfRangeException.ThrowIfGreaterThan(options.Ports.Count, 2, nameof(options));
        Log = log;
        try
        {
            Build(options, pool);
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>The ports.</summary>
    public IReadOnlyList<NetPort> Ports => _ports;

    /// <summary>The pollers.</summary>
    public IReadOnlyList<Poller> Pollers => _pollers;

    /// <summary>Sessions that were begun, over all ports.</summary>
    public int Sessions => _connections.Sum(c => c.Sessions);

    /// <summary>Completed when every inherited connection has ended.</summary>
    public Task Ended => Task.WhenAll(_connections.Select(c => c.Ended));

    internal GracePeriod Grace { get; } = new();

    internal Action<string> Log { get; }

    /// <summary>Begins to serve.</summary>
    public void Start() => _connections.ForEach(c => c.Start());

    /// <summary>Everything that happened on rings of one direction, over all ports.</summary>
    /// <param name="fromGuests">True for transmit rings, false for receive rings.</param>
    /// <returns>The sum.</returns>
    public NetQueueCounters Total(bool fromGuests)
    {
        var sum = new NetQueueCounters();
        foreach (NetPort port in _ports)
        {
            for (int i = fromGuests ? 1 : 0; i < port.RingCount; i += 2)
            {
                sum.Add(port.Counters[i]);
            }
        }

        return sum;
    }

    /// <summary>Ends sessions, then pollers, then gives buffers back.</summary>
    public void Dispose()
    {
        _connections.ForEach(c => c.Dispose());
        _connections.Clear();
        _pollers.ForEach(p => p.Dispose());
        _pollers.Clear();
        _lanes.ForEach(l => l.Dispose());
        _lanes.Clear();
    }

    internal void WakeAll() => _pollers.ForEach(p => p.Wake());

    private void Build(NetEngineOptions options, PinnedPool pool)
    {
        bool forwards = options.Mode is ForwardMode.Io or ForwardMode.MacSwap;
        if (forwards && options.Ports.Any(p => p.QueuePairs != options.Ports[0].QueuePairs))
        {
            throw new ArgumentException("ports that feed each other have as many pairs of queues, one for one", nameof(options));
        }

        foreach (NetPortOptions port in options.Ports)
        {
            _ports.Add(new NetPort(port, this, forwards));
        }

        int pollers = Math.Max(1, options.Processors.Count);
        for (int i = 0; i < pollers; i++)
        {
            _pollers.Add(new Poller($"poller-{i}", options.Processors.Count == 0 ? null : options.Processors[i], Grace));
        }

        int next = 0;
        foreach (NetPort source in _ports)
        {
            // Two ports that forward feed each other; everything else stays on its own port.
            NetPort target = forwards && _ports.Count == 2 ? _ports.First(p => p != source) : source;
            for (int pair = 0; pair < source.QueuePairs; pair++)
            {
                var lane = new NetLane(options.Mode, source, target, pair, pool, options.FrameSize);
                _lanes.Add(lane);
                _pollers[next++ % pollers].Add(lane);
            }
        }

        for (int i = 0; i < _ports.Count; i++)
        {
            _connections.Add(new PortConnection(_ports[i], options.Ports[i], options.Processors, Log));
        }
    }
}
