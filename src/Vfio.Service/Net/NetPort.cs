using System.Runtime.InteropServices;
using Vfio.Linux;
using Vfio.VhostUser;
using Vfio.Virtio;

namespace Vfio.Service;

/// <summary>A network device behind one vhost-user socket: its features, its configuration space, and those of its rings that
/// run now.</summary>
/// <remarks>The session's thread starts and stops rings; pollers read the current ones without a lock.</remarks>
public sealed class NetPort : IVhostUserDevice
{
    private const VirtioFeatures Offloads = (VirtioFeatures)(NetFeatures.Csum | NetFeatures.GuestCsum
        | NetFeatures.GuestTso4 | NetFeatures.GuestTso6 | NetFeatures.GuestEcn
        | NetFeatures.HostTso4 | NetFeatures.HostTso6 | NetFeatures.HostEcn);

    private readonly NetPortOptions _options;
    private readonly NetEngine _engine;
    private readonly NetQueue?[] _rings;
    private readonly NetQueueCounters[] _counters;
    private readonly bool _forwards;
    private int _mtu;

    internal NetPort(NetPortOptions options, NetEngine engine, bool forwards)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(options.QueuePairs);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(options.QueuePairs, 128);
        _options = options;
        _engine = engine;
        _forwards = forwards;
        _mtu = options.Mtu;
        _rings = new NetQueue?[RingCount];
        _counters = [.. Enumerable.Range(0, RingCount).Select(_ => new NetQueueCounters())];
    }

    /// <summary>How the port is called in messages.</summary>
    public string Name => _options.Name;

    /// <summary>Pairs of queues that it has.</summary>
    public int QueuePairs => _options.QueuePairs;

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
            all |= _forwards ? Offloads : 0;
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
        bool possible = mtu is >= 68 and <= 65535;
        _mtu = possible ? (int)mtu : _mtu;
        return possible;
    }

    /// <inheritdoc/>
    public void StartRing(VringConfiguration ring)
    {
        ArgumentNullException.ThrowIfNull(ring);
        var queue = NetQueue.Create(ring, _counters[ring.Index]);
        if (ring.Kick is { } kick)
        {
            foreach (Poller poller in _engine.Pollers)
            {
                poller.Events.Add(kick.Descriptor);
            }
        }

        queue.DisableNotifications();
        // ORDER: release of a queue that is whole; pairs with the acquire in Ring.
        Volatile.Write(ref _rings[ring.Index], queue);
        _engine.WakeAll();
    }

    /// <inheritdoc/>
    public VringPosition StopRing(int index)
    {
        NetQueue queue = _rings[index] ?? throw new InvalidOperationException($"ring {index} of {Name} does not run");
        // ORDER: published before the grace period, which every poller passes before the ring is touched here.
        Volatile.Write(ref _rings[index], null);
        try
        {
            _engine.Grace.Wait(NetEngine.StallTimeout);
        }
        catch (TimeoutException)
        {
            // It still runs, as far as anybody knows: a later attempt finds it.
            Volatile.Write(ref _rings[index], queue);
            throw;
        }

        if (queue.Ring.Kick is { } kick)
        {
            foreach (Poller poller in _engine.Pollers)
            {
                poller.Events.Remove(kick.Descriptor);
            }
        }

        return queue.Position;
    }

    /// <inheritdoc/>
    public void AwaitQuiescence() => _engine.Grace.Wait(NetEngine.StallTimeout);

    /// <inheritdoc/>
    public void KickRing(int index) => _engine.WakeAll();

    /// <summary>A ring that runs now, for the rest of the calling poller's batch.</summary>
    /// <param name="index">Which ring.</param>
    /// <returns>The ring, or null.</returns>
    // ORDER: acquire; pairs with the release in StartRing.
    internal NetQueue? Ring(int index) => Volatile.Read(ref _rings[index]);

    /// <summary>Tells the front-end and the log, once, that a ring is dead. Called by a poller.</summary>
    internal void Report(NetQueue queue)
    {
        if (queue.TryReport())
        {
            string message = $"{Name}: ring {queue.Ring.Index} stopped: the driver broke it ({queue.Error} at {queue.ErrorPosition})";
            ThreadPool.UnsafeQueueUserWorkItem(_engine.Log, message, preferLocal: false);
        }
    }
}
