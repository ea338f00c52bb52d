using System.Collections.Concurrent;
using System.Net.Sockets;
using System.Text;

namespace Vfio.Service.Tests;

/// <summary>A control server in a directory of its own, and raw connections to it.</summary>
internal sealed class DaemonFixture : IDisposable
{
    private readonly string _directory = Directory.CreateTempSubdirectory("vfiopin-daemon-").FullName;

    public DaemonFixture(Engine? engine = null)
    {
        SocketPath = Path.Combine(_directory, "run", "vfiopin.sock");
        Server = new ControlServer(engine ?? new Engine(), SocketPath, Log.Enqueue);
    }

    public string SocketPath { get; }

    public ControlServer Server { get; }

    public ConcurrentQueue<string> Log { get; } = new();

    public ControlClient Connect() => ControlClient.Connect(SocketPath);

    public RawClient ConnectRaw() => new(SocketPath);

    public void Dispose()
    {
        Server.Dispose();
        Directory.Delete(_directory, recursive: true);
    }

    /// <summary>Sends any bytes and reads lines, as a client that is not ours.</summary>
    public sealed class RawClient : IDisposable
    {
        private readonly NetworkStream _stream;
        private readonly StreamReader _reader;

        public RawClient(string path)
        {
            var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
            socket.Connect(new UnixDomainSocketEndPoint(path));
            _stream = new NetworkStream(socket, ownsSocket: true) { ReadTimeout = 20_000 };
            _reader = new StreamReader(_stream);
        }

        public void Send(string text) => Send(Encoding.UTF8.GetBytes(text));

        public void Send(ReadOnlySpan<byte> bytes) => _stream.Write(bytes);

        public string? ReadLine()
        {
            try
            {
                return _reader.ReadLine();
            }
            catch (IOException e) when (e.InnerException is SocketException { SocketErrorCode: SocketError.ConnectionReset })
            {
                return null;
            }
        }

        public void Dispose()
        {
            _reader.Dispose();
            _stream.Dispose();
        }
    }
}
