using System.Diagnostics;
using System.Diagnostics.CodeAnalysis;
using Vfio.Linux;
using Vfio.VhostUser;
using Vfio.Virtio;

namespace Vfio.Service;

/// <summary>The thread of one port that meets front-ends: it listens, or connects again and again, and runs one session after
/// the other.</summary>
internal sealed class PortConnection : IDisposable
{
    private static readonly TimeSpan RetryInterval = TimeSpan.FromMilliseconds(100);

    private readonly NetPort _port;
    private readonly NetPortOptions _options;
    private readonly Action<string> _log;
    private readonly UnixSocket? _listener;
    private readonly Thread _thread;
    private readonly Lock _change = new();
    private readonly ManualResetEventSlim _stop = new();
    private readonly TaskCompletionSource _ended = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private VhostUserSession? _session;
    private SessionCounters _before;
    private bool _isStarved;
    private bool _isDisposed;

    /// <summary>Listens at once, so that a front-end may connect as soon as this returns; serves once <see cref="Start"/> is called.</summary>
    public PortConnection(NetPort port, Action<string> log)
    {
        _port = port;
        _options = port.Options;
        _log = log;
        _listener = _options.SocketPath is { } path && !_options.IsClient ? UnixSocket.Listen(path) : null;
        _thread = new Thread(Run) { Name = $"vhost-user {port.Name}", IsBackground = true };
    }

    /// <summary>Completed when there will be no other session: the only connection has ended, or nothing else works.</summary>
    public Task Ended => _ended.Task;

    /// <summary>Sessions that were begun.</summary>
    public int Sessions { get; private set; }

    /// <summary>Why it meets no front-end, or null: it gave up, or waits for its poller.</summary>
    public string? Failure { get; private set; }

    /// <summary>What it is doing.</summary>
    public PortState State => Session is not null ? PortState.Connected
        : Failure is not null ? PortState.Failed
        : _ended.Task.IsCompleted ? PortState.Ended
        : _options.IsClient ? PortState.Connecting : PortState.Listening;

    /// <summary>The session that runs now, or null.</summary>
    // ORDER: acquire; pairs with the release where the session is published, so that a reader sees it whole.
    public VhostUserSession? Session => Volatile.Read(ref _session);

    /// <summary>What was said in all sessions.</summary>
    public SessionCounters Said
    {
        get
        {
            lock (_change)
            {
                return _session is { } session ? _before.With(session.Counters) : _before;
            }
        }
    }

    public void Start() => _thread.Start();

    /// <summary>Ends the session for a fault of this program's that came up elsewhere. Another may begin.</summary>
    public void Fail(Exception fault)
    {
        lock (_change)
        {
            _session?.Close();
        }

        LogFault(fault);
    }

    /// <summary>Ends the session, and waits for its end.</summary>
    public void Dispose()
    {
        if (_isDisposed)
        {
            return;
        }

        _isDisposed = true;
        _stop.Set();
        _listener?.Shutdown();
        lock (_change)
        {
            _session?.Close();
        }

        if (_thread.IsAlive)
        {
            _thread.Join();
        }

        _listener?.Dispose();
        // A session that was begun has closed it already.
        _options.Connection?.Dispose();
        _stop.Dispose();
    }

    private void LogFault(Exception fault) =>
        _log($"{_port.Name}: a fault in this program has ended the session, please report it: {fault}");

    private void Run()
    {
        try
        {
            // A poller that this thread displaced would have to be waited for by this thread.
            ThreadAffinity.Avoid(_options.Processors.Select(p => p.Number));
            bool again = true;
            while (again && !_stop.IsSet)
            {
                again = ServeNext() && _options.Connection is null;
            }
        }
        catch (LinuxException e)
        {
            Failure = e.Message;
            _log($"{_port.Name}: given up: {e.Message}");
        }
        finally
        {
            _ended.TrySetResult();
        }
    }

    private UnixSocket? Connect()
    {
        if (_options.Connection is { } connection)
        {
            return connection;
        }

        if (_listener is not null)
        {
            return _listener.Accept();
        }

        bool isTold = false;
        while (!_stop.IsSet)
        {
            if (UnixSocket.TryConnect(_options.SocketPath!, out Errno errno) is { } socket)
            {
                return socket;
            }

            if (errno is not (Errno.ENOENT or Errno.ECONNREFUSED or Errno.EAGAIN))
            {
                throw new LinuxException("connect", errno, _options.SocketPath!);
            }

            if (!isTold)
            {
                _log($"{_port.Name}: nobody listens at {_options.SocketPath} ({errno}); waiting for that");
                isTold = true;
            }

            _stop.Wait(RetryInterval);
        }

        return null;
    }

    // Another port's front-end, or another process, may have used up what there was (accept(2), socket(2)); a socket that may not be
    // connected to (connect(2)) may be one whose owner has still to let this user in.
    private static bool IsPassing(Errno errno) =>
        errno is Errno.EMFILE or Errno.ENFILE or Errno.ENOMEM or Errno.ENOBUFS or Errno.EACCES;

    // Null at the end, and when there is nothing to meet a front-end with for the moment.
    private VhostUserSession? Meet(out bool isStarved)
    {
        isStarved = false;
        try
        {
            VhostUserSession? session = Connect() is { } socket
                ? new VhostUserSession(socket, _port, message => _log($"{_port.Name}: {message}"))
                : null;
            _isStarved = false;
            return session;
        }
        catch (LinuxException e) when (IsPassing(e.Errno))
        {
            if (!_isStarved)
            {
                _log($"{_port.Name}: cannot meet a front-end yet: {e.Message}");
            }

            isStarved = _isStarved = true;
            return null;
        }
    }

    [SuppressMessage("Reliability", "CA2000:Dispose objects before losing scope", Justification = "End disposes it, as soon as that can be done")]
    private bool ServeNext()
    {
        VhostUserSession? session = Meet(out bool isStarved);
        if (session is null)
        {
            _stop.Wait(isStarved ? RetryInterval : TimeSpan.Zero);
            return isStarved;
        }

        lock (_change)
        {
            Volatile.Write(ref _session, session);
            if (_stop.IsSet)
            {
                session.Close();
            }
        }

        // From here on a fault elsewhere ends this session; one before is forgotten with the last.
        _port.BeginSession();
        Sessions++;
        long begun = Stopwatch.GetTimestamp();
        _log($"{_port.Name}: front-end connected");
        try
        {
            session.Run();
        }
        catch (TimeoutException e)
        {
            _log($"{_port.Name}: session ended: {e.Message}");
        }
        catch (Exception e) when (e is not LinuxException)
        {
            // A fault of this program's that a front-end has found: the other ports are no less whole for it.
            LogFault(e);
        }
        finally
        {
            lock (_change)
            {
                _before = _before.With(session.Counters);
                Volatile.Write(ref _session, null);
            }

            End(session);
        }

        _log($"{_port.Name}: front-end gone after {session.Messages} messages; features 0x{(ulong)session.Features:x}"
            + (session.Features.HasFlag(VirtioFeatures.AccessPlatform)
                ? $"; VIRTIO_F_ACCESS_PLATFORM was negotiated: {session.Iotlb}" : string.Empty));
        if (Stopwatch.GetElapsedTime(begun) < RetryInterval)
        {
            // One that comes and goes at once would fill the log, and keep this program busy.
            _stop.Wait(RetryInterval);
        }

        return true;
    }

    // A poller that is stuck may hold pointers into the guest's memory, which therefore stays, as do the rings: there is no other session
    // for this port until the poller comes back.
    private void End(VhostUserSession session)
    {
        // The front-end may be waiting for an answer that does not come.
        session.Close();
        do
        {
            try
            {
                session.Dispose();
                Failure = null;
                return;
            }
            catch (TimeoutException e)
            {
                if (Failure is null)
                {
                    _log($"{_port.Name}: waits for its poller: {e.Message}");
                }

                Failure = e.Message;
            }
        }
        while (!_stop.Wait(RetryInterval));
    }
}
