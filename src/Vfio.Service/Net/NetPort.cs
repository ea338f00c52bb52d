using System.Diagnostics.CodeAnalysis;
using System.Runtime.InteropServices;
using Vfio.Linux;
using Vfio.VhostUser;
using Vfio.Virtio;

namespace Vfio.Service;

/// <summary>A network device behind one vhost-user socket: its features, its configuration space, and those of its rings that
/// run now.</summary>
/// <remarks>The session's thread starts and stops rings; pollers read the current ones without a lock.</remarks>
[SuppressMessage("Design", "CA1001:Types that own disposable fields should be disposable", Justification = "NetEngine ends it, in steps that can fail")]
public sealed class NetPort : IVhostUserDevice
{
    private const VirtioFeatures Offloads = (VirtioFeatures)(NetFeatures.Csum | NetFeatures.GuestCsum
        | NetFeatures.GuestTso4 | NetFeatures.GuestTso6 | NetFeatures.GuestEcn
        | NetFeatures.HostTso4 | NetFeatures.HostTso6 | NetFeatures.HostEcn);

    private readonly NetPortOptions _options;
    private readonly NetEngine _engine;
    private readonly TransmitQueue?[] _transmit;
    private readonly ReceiveQueue?[] _receive;
    private readonly NetQueueCounters[] _counters;
    private readonly List<(NetLane Lane, Poller Poller)> _lanes = [];
    private PortConnection? _connection;
    private NetPort? _target;
    private int _mtu;
    private bool _hasFailed;

    internal NetPort(NetPortOptions options, NetEngine engine)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(options.QueuePairs);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(options.QueuePairs, 128);
        ArgumentOutOfRangeException.ThrowIfLessThan(options.IotlbSize, NetPortOptions.MinIotlbSize);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(options.IotlbSize, NetPortOptions.MaxIotlbSize);
        _options = options;
        _engine = engine;
        _mtu = options.Mtu;
        _transmit = new TransmitQueue?[QueuePairs];
        _receive = new ReceiveQueue?[QueuePairs];
        _counters = [.. Enumerable.Range(0, RingCount).Select(_ => new NetQueueCounters())];
        Peer = options.Peer;
        Target = Peer is null ? this : null;
    }

    /// <summary>How the port is called.</summary>
    public string Name => _options.Name;

    /// <summary>What it is like.</summary>
    public NetPortOptions Options => _options;

    /// <summary>Pairs of queues that it has.</summary>
    public int QueuePairs => _options.QueuePairs;

    /// <summary>The port that it is connected with, or is to be once that is there; null: frames go back to where they came from.</summary>
    public string? Peer { get; internal set; }

    /// <summary>Whether its frames go anywhere: back, or to a peer that is there.</summary>
    public bool HasTarget => Target is not null;

    /// <summary>Whether it has a front-end, and if not, whether one may come.</summary>
    public PortState State => _connection?.State ?? PortState.Ended;

    /// <summary>Why no front-end is met, any more or until a stuck poller comes back; or null.</summary>
    public string? Failure => _connection?.Failure;

    /// <summary>Sessions that were begun.</summary>
    public int Sessions => _connection?.Sessions ?? 0;

    /// <summary>What front-ends said, over all sessions.</summary>
    public SessionCounters Said => _connection?.Said ?? default;

    /// <summary>The session that runs now, or null.</summary>
    public VhostUserSession? Session => _connection?.Session;

    /// <summary>Completed when no other front-end will be met.</summary>
    public Task Ended => _connection?.Ended ?? Task.CompletedTask;

    /// <summary>Its pollers.</summary>
    internal List<Poller> Pollers { get; } = [];

    /// <summary>Where its frames go; null: nowhere. Read once a batch.</summary>
    // ORDER: a reference to an object that is whole; who takes a ring away waits for a grace period, see NetEngine.Link.
    internal NetPort? Target
    {
        get => Volatile.Read(ref _target);
        set => Volatile.Write(ref _target, value);
    }

    /// <inheritdoc/>
    public VirtioFeatures Features
    {
        get
        {
            VirtioFeatures all = VirtioFeatures.Version1 | VirtioFeatures.RingPacked | VirtioFeatures.RingEventIdx
                | VirtioFeatures.RingIndirectDesc | VirtioFeatures.InOrder | VhostFeatures.LogAll
                | VirtioFeatures.AccessPlatform
                | (VirtioFeatures)(NetFeatures.MrgRxbuf | NetFeatures.Status | NetFeatures.Mtu);
            // The front-end serves the control queue itself; more than one pair is chosen there.
            all |= QueuePairs > 1 ? (VirtioFeatures)(NetFeatures.Mq | NetFeatures.CtrlVq) : 0;
            // What is passed on unchanged must arrive somewhere.
            all |= _options.Forwards ? Offloads : 0;
            return all & (_options.FeatureMask | VirtioFeatures.Version1);
        }
    }

    /// <inheritdoc/>
    public ProtocolFeatures ProtocolFeatures => ProtocolFeatures.Mq | ProtocolFeatures.LogShmfd | ProtocolFeatures.ReplyAck
        | ProtocolFeatures.NetMtu | ProtocolFeatures.BackendReq | ProtocolFeatures.Config | ProtocolFeatures.InflightShmfd
        | ProtocolFeatures.ResetDevice | ProtocolFeatures.InbandNotifications | ProtocolFeatures.ConfigureMemSlots
        | ProtocolFeatures.Status;

    /// <inheritdoc/>
    public int RingCount => 2 * QueuePairs;

    /// <inheritdoc/>
    // For a network device: pairs.
    public int QueueNumber => QueuePairs;

    /// <inheritdoc/>
    public int IotlbCapacity => _options.IotlbSize;

    /// <summary>What happened on each ring, over all sessions.</summary>
    public IReadOnlyList<NetQueueCounters> Counters => _counters;

    /// <inheritdoc/>
    public bool TryReadConfig(int offset, Span<byte> bytes)
    {
        // virtio 1.3, 5.1.4 "Device configuration layout": mac, status, max_virtqueue_pairs, mtu.
        Span<byte> space = stackalloc byte[12];
        space.Clear();
        MemoryMarshal.Write(space[6..], virtio_net.VIRTIO_NET_S_LINK_UP);
        MemoryMarshal.Write(space[8..], (ushort)QueuePairs);
        MemoryMarshal.Write(space[10..], (ushort)_mtu);
        // A front-end asks for the whole structure that it knows, of which later versions have more.
        bytes.Clear();
        if (offset < space.Length)
        {
            ReadOnlySpan<byte> part = space[offset..];
            part[..Math.Min(part.Length, bytes.Length)].CopyTo(bytes);
        }

        return offset + bytes.Length <= 256;
    }

    /// <inheritdoc/>
    public bool TrySetMtu(ulong mtu)
    {
        // virtio 1.3, 5.1.4.1 "Device Requirements: Device configuration layout": 68 to 65535.
        if (mtu is < 68 or > 65535)
        {
            return false;
        }

        _mtu = (int)mtu;
        foreach (ReceiveQueue? queue in _receive)
        {
            queue?.SetMtu(_mtu);
        }

        return true;
    }

    /// <inheritdoc/>
    public void StartRing(VringConfiguration ring)
    {
        ArgumentNullException.ThrowIfNull(ring);
        NetQueue queue = IsTransmit(ring.Index)
            ? TransmitQueue.Create(ring, _counters[ring.Index])
            : ReceiveQueue.Create(ring, _counters[ring.Index]);
        (queue as ReceiveQueue)?.SetMtu(_mtu);
        Poller poller = PollerOf(ring.Index);
        if (ring.Kick is { } kick)
        {
            poller.Watch(kick, _counters[ring.Index]);
        }

        queue.DisableNotifications();
        Set(ring.Index, queue);
        poller.Wake();
    }

    /// <inheritdoc/>
    public RingPosition StopRing(int index)
    {
        NetQueue queue = Ring(index) ?? throw new InvalidOperationException($"ring {index} of {Name} does not run");
        // Published before the grace period, which every poller passes before the ring is touched here.
        Set(index, null);
        try
        {
            _engine.Grace.Wait(_engine.Patience);
        }
        catch (TimeoutException)
        {
            // It still runs, as far as anybody knows: a later attempt finds it.
            Set(index, queue);
            throw;
        }

        if (queue.Ring.Kick is { } kick)
        {
            PollerOf(index).Unwatch(kick);
        }

        // ORDER: written by a poller, which has passed the grace period since.
        if (!_hasFailed)
        {
            queue.Settle();
        }

        return queue.Position;
    }

    /// <inheritdoc/>
    public void AwaitQuiescence() => _engine.Grace.Wait(_engine.Patience);

    /// <inheritdoc/>
    public void KickRing(int index)
    {
        // No eventfd is watched for such a ring: only this thread counts.
        _counters[index].Kicks++;
        PollerOf(index).Wake();
    }

    /// <summary>Everything that happened on its rings of one direction.</summary>
    /// <param name="fromGuest">True for transmit rings, false for receive rings.</param>
    /// <returns>The sum.</returns>
    public NetQueueCounters Total(bool fromGuest)
    {
        var sum = new NetQueueCounters();
        for (int i = fromGuest ? 1 : 0; i < RingCount; i += 2)
        {
            sum.Add(_counters[i]);
        }

        return sum;
    }

    /// <summary>A front-end comes, which knows nothing of what another said.</summary>
    internal void BeginSession()
    {
        _mtu = _options.Mtu;
        _hasFailed = false;
        _lanes.ForEach(l => l.Lane.Restart());
    }

    /// <summary>Something threw at work on its rings: ends the session, which leaves them as they are. Called by a poller.</summary>
    internal void Fail(Exception fault)
    {
        _hasFailed = true;
        ThreadPool.UnsafeQueueUserWorkItem(static on => on.Connection?.Fail(on.Fault), (Connection: _connection, Fault: fault), preferLocal: false);
    }

    /// <summary>Makes a lane for each pair of queues, and gives it to the poller that has the fewest.</summary>
    internal void MakeLanes(PinnedPool pool)
    {
        for (int pair = 0; pair < QueuePairs; pair++)
        {
            var lane = new NetLane(this, pair, pool);
            Poller poller = Pollers.MinBy(p => p.WorkCount)!;
            _lanes.Add((lane, poller));
            poller.Add(lane);
        }
    }

    /// <summary>Takes the lanes from the pollers, then gives their buffers back. There is no session.</summary>
    internal void RemoveLanes()
    {
        while (_lanes.Count != 0)
        {
            (NetLane lane, Poller poller) = _lanes[^1];
            poller.Remove(lane);
            lane.Dispose();
            _lanes.RemoveAt(_lanes.Count - 1);
        }
    }

    /// <summary>Listens.</summary>
    internal void Connect() => _connection = new PortConnection(this, _engine.Log);

    /// <summary>Begins to meet front-ends.</summary>
    internal void Start() => _connection!.Start();

    /// <summary>Ends the session and meets no other front-end.</summary>
    internal void Disconnect() => _connection?.Dispose();

    /// <summary>A pair's transmit ring while it runs, for the rest of the calling poller's batch.</summary>
    // ORDER: acquire; pairs with the release in Set.
    internal TransmitQueue? Transmit(int pair) => Volatile.Read(ref _transmit[pair]);

    /// <summary>A pair's receive ring while it runs, for the rest of the calling poller's batch.</summary>
    // ORDER: acquire; pairs with the release in Set.
    internal ReceiveQueue? Receive(int pair) => Volatile.Read(ref _receive[pair]);

    /// <summary>Either, by its number.</summary>
    internal NetQueue? Ring(int index) => IsTransmit(index) ? Transmit(index / 2) : Receive(index / 2);

    /// <summary>Tells the front-end and the log, once, that a ring is dead. Called by a poller.</summary>
    internal void Report(NetQueue queue)
    {
        if (queue.TryReport())
        {
            string message = $"{Name}: ring {queue.Ring.Index} stopped: the driver broke it ({queue.Error} at {queue.ErrorPosition})";
            ThreadPool.UnsafeQueueUserWorkItem(_engine.Log, message, preferLocal: false);
        }
    }

    // virtio 1.3, 5.1.2 "Virtqueues": odd ones transmit.
    private static bool IsTransmit(int index) => index % 2 == 1;

    private void Set(int index, NetQueue? queue)
    {
        // ORDER: release of a queue that is whole; pairs with the acquires in Transmit and Receive.
        if (IsTransmit(index))
        {
            Volatile.Write(ref _transmit[index / 2], (TransmitQueue?)queue);
        }
        else
        {
            Volatile.Write(ref _receive[index / 2], (ReceiveQueue?)queue);
        }
    }

    // The one that takes from the pair's transmit ring or, generating, feeds its receive ring: who would be woken by its kicks.
    private Poller PollerOf(int ring) => _lanes[ring / 2].Poller;
}
