using System.Text.Json;
using Vfio.Linux;

namespace Vfio.Service.Tests;

[TestClass]
public sealed class ControlServerTests : IDisposable
{
    private const string Good = """{"jsonrpc":"2.0","id":7,"method":"daemon.info"}""" + "\n";

    private readonly DaemonFixture _daemon = new();

    public void Dispose() => _daemon.Dispose();

    [TestMethod]
    public void A_client_gets_the_result_of_an_operation()
    {
        using ControlClient client = _daemon.Connect();
        DaemonInfo info = client.Invoke(DaemonOperations.Info, NoParameters.Instance, new OperationContext());
        Assert.AreEqual(Environment.ProcessId, info.ProcessId);
    }

    [TestMethod]
    public void The_socket_has_mode_0660_and_the_peer_is_logged()
    {
        const UnixFileMode Wanted = UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.GroupRead | UnixFileMode.GroupWrite;
        Assert.AreEqual(Wanted, File.GetUnixFileMode(_daemon.SocketPath));
        using DaemonFixture.RawClient client = _daemon.ConnectRaw();
        client.Send(Good);
        Assert.IsNotNull(client.ReadLine());
        Assert.IsTrue(_daemon.Log.Any(l => l.Contains($"pid {Environment.ProcessId} uid ", StringComparison.Ordinal)));
    }

    [TestMethod]
    [DataRow("nonsense", RpcError.Parse)]
    [DataRow("", RpcError.Parse)]
    [DataRow("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":", RpcError.Parse)]
    [DataRow("[]", RpcError.InvalidRequest)]
    [DataRow("17", RpcError.InvalidRequest)]
    [DataRow("null", RpcError.InvalidRequest)]
    [DataRow("""[{"jsonrpc":"2.0","id":1,"method":"daemon.info"}]""", RpcError.InvalidRequest)]
    [DataRow("""{"id":1,"method":"daemon.info"}""", RpcError.InvalidRequest)]
    [DataRow("""{"jsonrpc":2.0,"id":1,"method":"daemon.info"}""", RpcError.InvalidRequest)]
    [DataRow("""{"jsonrpc":"2.0","id":1,"method":9}""", RpcError.InvalidRequest)]
    [DataRow("""{"jsonrpc":"2.0","id":{},"method":"daemon.info"}""", RpcError.InvalidRequest)]
    [DataRow("""{"jsonrpc":"2.0","id":1,"method":"daemon.info","params":[1]}""", RpcError.InvalidRequest)]
    [DataRow("""{"jsonrpc":"2.0","id":1,"method":"daemon.info","descriptors":-1}""", RpcError.InvalidRequest)]
    [DataRow("""{"jsonrpc":"2.0","id":1,"method":"daemon.info","descriptors":"x"}""", RpcError.InvalidRequest)]
    [DataRow("""{"jsonrpc":"2.0","id":1,"method":"\ud800"}""", RpcError.Parse)]
    [DataRow("""{"jsonrpc":"2.0","id":"\ud800","method":"no.such"}""", RpcError.Parse)]
    [DataRow("""{"jsonrpc":"\udc00","id":1,"method":"daemon.info"}""", RpcError.Parse)]
    [DataRow("""{"\ud800":1,"jsonrpc":"2.0","id":1,"method":"daemon.info"}""", RpcError.Parse)]
    [DataRow("""{"jsonrpc":"2.0","id":1,"method":"cancel","params":{"\ud800":1}}""", RpcError.Parse)]
    [DataRow("""{"jsonrpc":"2.0","id":1,"method":"no.such"}""", RpcError.MethodNotFound)]
    [DataRow("""{"jsonrpc":"2.0","id":1,"method":"daemon.info","params":{"extra":1}}""", RpcError.InvalidParameters)]
    public void A_malformed_line_is_answered_with_an_error_and_the_next_one_is_served(string line, int code)
    {
        using DaemonFixture.RawClient client = _daemon.ConnectRaw();
        client.Send(line + "\n");
        Assert.AreEqual(code, ErrorCode(client.ReadLine()));
        client.Send(Good);
        Assert.AreEqual(7, Id(client.ReadLine()));
    }

    [TestMethod]
    public void Bytes_that_are_no_text_are_refused_and_the_next_line_is_served()
    {
        using DaemonFixture.RawClient client = _daemon.ConnectRaw();
        client.Send([.. "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\""u8, 0xff, 0xc0, .. "\"}\n"u8]);
        Assert.AreEqual(RpcError.Parse, ErrorCode(client.ReadLine()));
        client.Send(Good);
        Assert.AreEqual(7, Id(client.ReadLine()));
    }

    [TestMethod]
    public void Nesting_without_end_is_refused()
    {
        using DaemonFixture.RawClient client = _daemon.ConnectRaw();
        string deep = new string('[', 5000) + new string(']', 5000);
        client.Send("""{"jsonrpc":"2.0","id":1,"method":"daemon.info","params":{"a":""" + deep + "}}\n");
        Assert.AreEqual(RpcError.Parse, ErrorCode(client.ReadLine()));
    }

    [TestMethod]
    public void A_line_that_is_too_long_ends_the_connection_and_no_other()
    {
        using DaemonFixture.RawClient other = _daemon.ConnectRaw();
        using DaemonFixture.RawClient client = _daemon.ConnectRaw();
        client.Send(new string('x', ControlServer.LongestLine + 4097));
        Assert.AreEqual(RpcError.InvalidRequest, ErrorCode(client.ReadLine()));
        Assert.IsNull(client.ReadLine());
        other.Send(Good);
        Assert.AreEqual(7, Id(other.ReadLine()));
    }

    [TestMethod]
    public void Descriptors_that_did_not_come_end_the_connection()
    {
        using DaemonFixture.RawClient client = _daemon.ConnectRaw();
        client.Send("""{"jsonrpc":"2.0","id":1,"method":"daemon.info","descriptors":2}""" + "\n");
        Assert.AreEqual(RpcError.InvalidRequest, ErrorCode(client.ReadLine()));
        Assert.IsNull(client.ReadLine());
    }

    [TestMethod]
    public void A_notification_is_not_answered()
    {
        using DaemonFixture.RawClient client = _daemon.ConnectRaw();
        client.Send("""{"jsonrpc":"2.0","method":"daemon.info"}""" + "\n");
        client.Send(Good);
        Assert.AreEqual(7, Id(client.ReadLine()));
    }

    [TestMethod]
    public void Two_requests_in_one_packet_and_one_in_pieces_are_all_answered()
    {
        using DaemonFixture.RawClient client = _daemon.ConnectRaw();
        client.Send(Good + Good + Good[..11]);
        client.Send(Good[11..]);
        for (int i = 0; i < 3; i++)
        {
            Assert.AreEqual(7, Id(client.ReadLine()));
        }
    }

    [TestMethod]
    public void Random_bytes_never_stop_the_server()
    {
        int seed = Environment.TickCount;
        Console.WriteLine($"seed {seed}");
        var random = new Random(seed);
        for (int round = 0; round < 40; round++)
        {
            using DaemonFixture.RawClient client = _daemon.ConnectRaw();
            char[] text = Good.ToCharArray();
            for (int i = 0; i < 4; i++)
            {
                text[random.Next(text.Length - 1)] = (char)random.Next(32, 127);
            }

            client.Send(new string(text));
            client.Send(Good);
            string? line;
            do
            {
                line = client.ReadLine();
                Assert.IsNotNull(line);
            }
            while (!line.Contains("\"result\"", StringComparison.Ordinal));
        }
    }

    [TestMethod]
    public void A_second_daemon_on_the_same_socket_is_refused()
    {
        using var engine = new Engine();
        LinuxException e = Assert.ThrowsExactly<LinuxException>(() => new ControlServer(engine, _daemon.SocketPath, _ => { }));
        Assert.AreEqual(Errno.EADDRINUSE, e.Errno);
        using ControlClient client = _daemon.Connect();
    }

    [TestMethod]
    public void A_directory_that_cannot_be_made_is_told_with_its_error_number()
    {
        using var engine = new Engine();
        string file = Path.GetTempFileName();
        foreach ((string directory, Errno errno) in new[] { ("/proc/vfiopin", Errno.ENOENT), (file, Errno.EEXIST), ($"/tmp/{new string('x', 256)}", Errno.ENAMETOOLONG) })
        {
            LinuxException e = Assert.ThrowsExactly<LinuxException>(() => new ControlServer(engine, Path.Combine(directory, "s"), _ => { }));
            Assert.AreEqual(("mkdir", errno, directory), (e.Call, e.Errno, e.Detail), e.Message);
            Assert.IsFalse(e.Message.Contains("..", StringComparison.Ordinal), e.Message);
        }

        File.Delete(file);
    }

    [TestMethod]
    public void A_dead_daemons_socket_is_replaced()
    {
        string directory = Directory.CreateTempSubdirectory("vfiopin-stale-").FullName;
        string path = Path.Combine(directory, "s.sock");
        var socket = new System.Net.Sockets.Socket(
            System.Net.Sockets.AddressFamily.Unix, System.Net.Sockets.SocketType.Stream, System.Net.Sockets.ProtocolType.Unspecified);
        socket.Bind(new System.Net.Sockets.UnixDomainSocketEndPoint(path));
        // Renamed away from the path that .NET deletes when it closes: what a killed daemon leaves.
        File.Move(path, path + ".kept");
        socket.Dispose();
        File.Move(path + ".kept", path);

        using (var server = new ControlServer(new Engine(), path, _ => { }))
        using (ControlClient client = ControlClient.Connect(path))
        {
            client.Invoke(DaemonOperations.Info, NoParameters.Instance, new OperationContext());
        }

        Assert.IsFalse(File.Exists(path));
        Directory.Delete(directory, recursive: true);
    }

    [TestMethod]
    public void Without_a_daemon_the_cure_is_to_start_one()
    {
        LinuxException e = Assert.ThrowsExactly<LinuxException>(() => ControlClient.Connect(_daemon.SocketPath + ".none"));
        Assert.AreEqual("no daemon is running there", e.Cause);
        StringAssert.Contains(e.Cure, "vfiopin daemon", StringComparison.Ordinal);
    }

    [TestMethod]
    public void Ending_the_server_removes_the_socket_and_cuts_clients_off()
    {
        using DaemonFixture.RawClient client = _daemon.ConnectRaw();
        client.Send(Good);
        Assert.IsNotNull(client.ReadLine());
        _daemon.Server.Dispose();
        Assert.IsNull(client.ReadLine());
        Assert.IsFalse(File.Exists(_daemon.SocketPath));
    }

    [TestMethod]
    public void Root_the_own_user_and_the_sockets_group_are_admitted_and_nobody_else()
    {
        uint self = UnixIdentity.EffectiveUser;
        uint stranger = self + 4321;
        Assert.IsTrue(SocketFile.Admits(new UnixCredentials(1, 0, 99), [], 50));
        Assert.IsTrue(SocketFile.Admits(new UnixCredentials(1, self, 99), [], 50));
        Assert.IsTrue(SocketFile.Admits(new UnixCredentials(1, stranger, 50), [], 50));
        Assert.IsTrue(SocketFile.Admits(new UnixCredentials(1, stranger, 99), [7, 50], 50));
        Assert.IsFalse(SocketFile.Admits(new UnixCredentials(1, stranger, 99), [7, 8], 50));
    }

    [TestMethod]
    public void A_quiet_server_allocates_nothing()
    {
        using ControlClient client = _daemon.Connect();
        client.Invoke(DaemonOperations.Info, NoParameters.Instance, new OperationContext());
        using var never = new ManualResetEventSlim();
        long before = GC.GetTotalAllocatedBytes(precise: true);
        // Nothing is waited for but time in which a timer, if there were one, would fire.
        never.Wait(TimeSpan.FromMilliseconds(300));
        long grown = GC.GetTotalAllocatedBytes(precise: true) - before;
        Assert.IsLessThan(4096, grown, $"{grown} bytes");
    }

    private static int ErrorCode(string? line)
    {
        Assert.IsNotNull(line);
        using JsonDocument message = JsonDocument.Parse(line);
        return message.RootElement.GetProperty("error").GetProperty("code").GetInt32();
    }

    private static int Id(string? line)
    {
        Assert.IsNotNull(line);
        using JsonDocument message = JsonDocument.Parse(line);
        Assert.IsTrue(message.RootElement.TryGetProperty("result", out _), line);
        return message.RootElement.GetProperty("id").GetInt32();
    }
}
