using System.Runtime.InteropServices;
using Vfio.Linux;

namespace Vfio.VhostUser;

/// <summary>The channel for requests of the back-end (vhost-user specification, "Back-end communication"). Nothing waits on it:
/// pollers send here.</summary>
internal sealed class BackendChannel(UnixSocket socket) : IDisposable
{
    private readonly MessageChannel _channel = new(socket);

    /// <summary>Sends a request that asks for no answer.</summary>
    /// <returns>False when there was no room, or nobody listens any more.</returns>
    public bool TrySend<T>(BackendRequest request, T payload)
        where T : unmanaged =>
        _channel.TrySend((uint)request, 0, MemoryMarshal.AsBytes(new ReadOnlySpan<T>(in payload)));

    /// <summary>Sends requests that ask for no answer, all together.</summary>
    /// <returns>False when none was sent: there was no room, or nobody listens any more.</returns>
    public bool TrySendAll<T>(BackendRequest request, ReadOnlySpan<T> payloads)
        where T : unmanaged =>
        _channel.TrySendAll((uint)request, 0, payloads);

    public void Dispose() => _channel.Dispose();
}
