using Vfio.Linux;

namespace Vfio.Service;

/// <summary>The ports of an engine by name, with the memory of each.</summary>
/// <remarks>Thread-safe. One port is added or removed at a time; looking does not wait for that.</remarks>
internal sealed class EnginePorts(Engine engine, NetEngine net) : IDisposable
{
    private readonly Lock _change = new();
    private readonly Dictionary<NetPort, PortMemory> _memory = [];

    public PortInfo Add(PortRequest request, OperationContext context)
    {
        lock (_change)
        {
            UnixSocket? connection = ConnectionOf(context);
            try
            {
                NetPortOptions options = request.ToOptions(connection);
                PortMemory memory = PortMemory.Take(engine, request, context);
                try
                {
                    NetPort port = net.Add(options, memory.Pool);
                    lock (_memory)
                    {
                        _memory.Add(port, memory);
                    }

                    return Show(port);
                }
                catch (TimeoutException e)
                {
                    // Where the port could not be taken down again, whoever is stuck may hold its buffers.
                    if (net.Ports.FirstOrDefault(p => p.Name == request.Name) is { } port)
                    {
                        lock (_memory)
                        {
                            _memory.Add(port, memory);
                        }
                    }
                    else
                    {
                        memory.Release();
                    }

                    throw Stuck("port add", request.Name, e);
                }
                catch
                {
                    memory.Release();
                    throw;
                }
            }
            catch
            {
                connection?.Dispose();
                throw;
            }
        }
    }

    public PortInfo[] List() => [.. net.Ports.OrderBy(p => p.Name, StringComparer.Ordinal).Select(Show)];

    public PortInfo Get(string name) => Show(Find(name));

    /// <summary>Removes a port.</summary>
    /// <returns>What it did until then.</returns>
    public PortInfo Remove(string name)
    {
        lock (_change)
        {
            return Remove(Find(name));
        }
    }

    public void Dispose()
    {
        lock (_change)
        {
            foreach (NetPort port in net.Ports)
            {
                Remove(port);
            }

            net.Dispose();
        }
    }

    private static UnixSocket? ConnectionOf(OperationContext context)
    {
        if (context.Descriptors.Count == 0)
        {
            return null;
        }

        // The caller's descriptor ends with the call.
        var socket = new UnixSocket(context.Descriptors[0].Duplicate());
        try
        {
            // Says whether it is a socket at all.
            socket.GetPeerCredentials();
            return socket;
        }
        catch
        {
            socket.Dispose();
            throw;
        }
    }

    private PortInfo Remove(NetPort port)
    {
        try
        {
            net.Remove(port);
        }
        catch (TimeoutException e)
        {
            throw Stuck("port remove", port.Name, e);
        }

        PortInfo last = Show(port);
        PortMemory? memory;
        lock (_memory)
        {
            _memory.Remove(port, out memory);
        }

        memory?.Release();
        return last;
    }

    private static LinuxException Stuck(string call, string name, TimeoutException stuck) => new(
        call, Errno.ETIMEDOUT, name, stuck.Message, "look at the port with: vfiopin port list, and remove it once the thread runs again");

    private NetPort Find(string name) => net.Ports.FirstOrDefault(p => p.Name == name)
        ?? throw new LinuxException("port lookup", Errno.ENOENT, name, "there is no port of this name", "list the ports with: vfiopin port list");

    private PortInfo Show(NetPort port) => PortInfo.Of(port, PoolOf(port));

    private string? PoolOf(NetPort port)
    {
        lock (_memory)
        {
            return _memory.GetValueOrDefault(port)?.PoolName;
        }
    }
}
