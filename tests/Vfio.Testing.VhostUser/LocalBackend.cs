using Vfio.Linux;
using Vfio.Service;
using Vfio.VhostUser;

namespace Vfio.Testing.VhostUser;

/// <summary>The real network back-end in this process, with one session that a test holds in its hands.</summary>
public sealed class LocalBackend : IDisposable
{
    private readonly string _directory = Directory.CreateTempSubdirectory("vfiopin-iotlb-").FullName;
    private readonly PinnedPool _pool;
    private readonly NetEngine _engine;
    private readonly Thread _thread;

    /// <summary>Starts it.</summary>
    /// <param name="mode">What it does with frames.</param>
    /// <param name="wrap">Puts something between the session and the port; null for nothing.</param>
    /// <param name="limits">How much the front-end's memory may take; null for the usual.</param>
    /// <param name="iotlbSize">Translations that it keeps.</param>
    public LocalBackend(
        ForwardMode mode,
        Func<IVhostUserDevice, IVhostUserDevice>? wrap = null,
        MappingLimits? limits = null,
        int iotlbSize = DeviceIotlb.DefaultCapacity)
    {
        _pool = PinnedPool.Create(new PinnedPoolOptions
        {
            Name = "iotlb",
            Size = 32ul * FrameBatch.BufferSize,
            Backings = [MemoryBacking.Pages4KiB],
            BufferSize = FrameBatch.BufferSize,
            TrackDirty = false,
        });
        _engine = new NetEngine(Note);
        // Nobody connects there: the session below stands in for the port's own.
        var options = new NetPortOptions("iotlb") { SocketPath = Path.Combine(_directory, "socket"), Mode = mode, IotlbSize = iotlbSize };
        IVhostUserDevice port = _engine.Add(options, _pool);
        (UnixSocket ours, Socket) = UnixSocket.Pair();
        Session = new VhostUserSession(ours, wrap is null ? port : wrap(port), Note, limits);
        _thread = new Thread(Session.Run) { Name = "session", IsBackground = true };
        _thread.Start();
    }

    /// <summary>The front-end's end of the connection; whoever takes it owns it.</summary>
    public UnixSocket Socket { get; }

    /// <summary>The session.</summary>
    public VhostUserSession Session { get; }

    /// <summary>The port.</summary>
    public NetPort Port => _engine.Ports[0];

    /// <summary>Lines that were logged.</summary>
    public System.Collections.Concurrent.ConcurrentQueue<string> Log { get; } = [];

    /// <summary>Waits until the session has ended by itself.</summary>
    /// <exception cref="TimeoutException">It goes on.</exception>
    public void AwaitEnd()
    {
        if (!_thread.Join(TimeSpan.FromSeconds(60)))
        {
            throw new TimeoutException("the session goes on");
        }
    }

    public void Dispose()
    {
        Session.Close();
        _thread.Join();
        Session.Dispose();
        _engine.Dispose();
        _pool.Dispose();
        Directory.Delete(_directory, recursive: true);
    }

    private void Note(string line) => Log.Enqueue(line);
}
