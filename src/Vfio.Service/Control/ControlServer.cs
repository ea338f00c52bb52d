using System.Globalization;
using Vfio.Linux;

namespace Vfio.Service;

/// <summary>Serves an engine over a Unix socket: JSON-RPC 2.0, one message a line. Peers are root, the daemon's own user and
/// members of the socket's group; each is logged.</summary>
/// <remarks>Threads: one accepts, one per client reads, one per call works. None of them wakes while nothing is asked.</remarks>
public sealed class ControlServer : IDisposable
{
    /// <summary>Where the daemon listens unless it is told otherwise.</summary>
    public const string DefaultPath = "/run/vfiopin/vfiopin.sock";

    /// <summary>Bytes of the longest line that is taken; a longer one ends the connection.</summary>
    public const int LongestLine = 64 * 1024;

    private const int MostClients = 64;

    private readonly Engine _engine;
    private readonly Action<string> _log;
    private readonly uint _group;
    private readonly UnixSocket _listener;
    private readonly Thread _acceptor;
    private readonly Lock _gate = new();
    private readonly Dictionary<ControlConnection, Thread> _clients = [];
    private readonly ManualResetEventSlim _stopping = new();
    private bool _disposed;

    /// <summary>Begins to listen.</summary>
    /// <param name="engine">The engine that is served; disposed with this, after the last call has ended.</param>
    /// <param name="path">The socket's path; its directory is made when it is not there.</param>
    /// <param name="log">Gets a line for each client and each error, from any thread.</param>
    /// <param name="group">The group that may connect besides root and the daemon's user; the process's own by default.</param>
    /// <exception cref="LinuxException">Another daemon listens there (EADDRINUSE), or the path cannot be used.</exception>
    public ControlServer(Engine engine, string path, Action<string> log, uint? group = null)
    {
        ArgumentNullException.ThrowIfNull(log);
        _engine = engine;
        _log = log;
        _listener = Listen(path, group, out _group);
        _acceptor = new Thread(Accept) { Name = "control accept", IsBackground = true };
        _acceptor.Start();
    }

    /// <summary>Ends it: running calls are cancelled and waited for, clients are cut off, the socket is removed, the engine is disposed.</summary>
    public void Dispose()
    {
        if (Interlocked.Exchange(ref _disposed, true))
        {
            return;
        }

        _stopping.Set();
        _listener.Shutdown();
        _acceptor.Join();
        KeyValuePair<ControlConnection, Thread>[] clients;
        lock (_gate)
        {
            clients = [.. _clients];
        }

        foreach ((ControlConnection client, _) in clients)
        {
            client.Stop();
        }

        foreach ((_, Thread thread) in clients)
        {
            thread.Join();
        }

        _listener.Dispose();
        _engine.Dispose();
        _stopping.Dispose();
    }

    internal void Log(string line) => _log($"vfiopin daemon: {line}");

    private static UnixSocket Listen(string path, uint? group, out uint socketGroup)
    {
        try
        {
            Directory.CreateDirectory(Path.GetDirectoryName(Path.GetFullPath(path))!);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            Errno errno = e switch
            {
                // The kernel's number is in what is inside, or where .NET has no class for it.
                UnauthorizedAccessException { InnerException: { HResult: > 0 } inner } => (Errno)inner.HResult,
                UnauthorizedAccessException => Errno.EACCES,
                DirectoryNotFoundException or FileNotFoundException => Errno.ENOENT,
                PathTooLongException => Errno.ENAMETOOLONG,
                _ => (Errno)e.HResult,
            };
            throw new LinuxException(
                "mkdir", errno, Path.GetDirectoryName(path) ?? path, e.Message.TrimEnd('.'), "run the daemon as root, or choose another place with --socket");
        }

        UnixSocket listener;
        try
        {
            listener = UnixSocket.Listen(path);
        }
        catch (LinuxException e) when (e.Errno == Errno.EADDRINUSE)
        {
            throw new LinuxException(
                e.Call, e.Errno, path, "a daemon is serving there already", "use that one, end it, or choose another place with --socket");
        }

        try
        {
            socketGroup = SocketFile.Restrict(path, group);
            return listener;
        }
        catch
        {
            listener.Dispose();
            throw;
        }
    }

    private void Accept()
    {
        while (!_stopping.IsSet)
        {
            UnixSocket? socket;
            try
            {
                socket = _listener.Accept();
            }
            catch (LinuxException e)
            {
                // Descriptors have run out (EMFILE); the next client may find some free.
                Log(e.Message);
                _stopping.Wait(TimeSpan.FromMilliseconds(200));
                continue;
            }

            if (socket is null)
            {
                return;
            }

            Admit(socket);
        }
    }

    private void Admit(UnixSocket socket)
    {
        UnixCredentials peer = socket.GetPeerCredentials();
        string who = string.Create(CultureInfo.InvariantCulture, $"pid {peer.ProcessId} uid {peer.UserId} gid {peer.GroupId}");
        var client = new ControlConnection(this, _engine, socket, who);
        string? refusal = SocketFile.Admits(peer, socket.GetPeerGroups(), _group) ? null
            : $"uid {peer.UserId.ToString(CultureInfo.InvariantCulture)} is neither root, nor the daemon's user, nor in the socket's group";
        lock (_gate)
        {
            refusal ??= _clients.Count >= MostClients ? "there are too many clients" : null;
            if (refusal is null)
            {
                var thread = new Thread(() => Serve(client)) { Name = "control client", IsBackground = true };
                _clients.Add(client, thread);
                Log($"client {who}: connected");
                thread.Start();
                return;
            }
        }

        Log($"client {who}: refused, {refusal}");
        client.Refuse(refusal);
    }

    private void Serve(ControlConnection client)
    {
        client.Run();
        lock (_gate)
        {
            _clients.Remove(client);
        }
    }
}
