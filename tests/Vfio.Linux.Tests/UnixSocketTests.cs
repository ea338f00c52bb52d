using System.Text;
using Vfio.Testing;

namespace Vfio.Linux.Tests;

[TestClass]
public sealed class UnixSocketTests
{
    [TestMethod]
    public void A_file_that_is_no_socket_is_not_replaced()
    {
        string path = Path.GetTempFileName();
        File.WriteAllText(path, "kept");
        Assert.AreEqual(Errno.EADDRINUSE, Assert.Throws<LinuxException>(() => UnixSocket.Listen(path)).Errno);
        Assert.AreEqual("kept", File.ReadAllText(path));
        File.Delete(path);
    }

    [TestMethod]
    public void Descriptors_arrive_with_the_bytes_and_refer_to_the_same_file()
    {
        (UnixSocket first, UnixSocket second) = UnixSocket.Pair();
        using (first)
        using (second)
        using (var sent = new EventFd())
        using (var received = new ReceivedDescriptors())
        {
            Assert.AreEqual(Errno.None, first.Send("hello"u8, sent.Descriptor));
            Span<byte> buffer = stackalloc byte[16];
            int count = second.Receive(buffer, received);

            Assert.AreEqual("hello", Encoding.ASCII.GetString(buffer[..count]));
            Assert.AreEqual(1, received.Count);
            Assert.IsFalse(received.Truncated);
            using var here = new EventFd(received.Take(0));
            here.Signal();
            Assert.AreEqual(1ul, sent.Take());
        }
    }

    [TestMethod]
    public void Descriptors_that_nobody_takes_are_closed()
    {
        (UnixSocket first, UnixSocket second) = UnixSocket.Pair();
        using (first)
        using (second)
        using (var sent = new EventFd())
        {
            int before = OpenDescriptors();
            byte[] buffer = new byte[8];
            for (int i = 0; i < 100; i++)
            {
                using var received = new ReceivedDescriptors();
                Assert.AreEqual(Errno.None, first.Send([1], sent.Descriptor, sent.Descriptor, sent.Descriptor));
                Assert.AreEqual(1, second.Receive(buffer, received));
                Assert.AreEqual(3, received.Count);
            }

            Assert.AreEqual(before, OpenDescriptors());
        }
    }

    [TestMethod]
    public void A_received_descriptor_is_closed_on_exec()
    {
        (UnixSocket first, UnixSocket second) = UnixSocket.Pair();
        using (first)
        using (second)
        using (var sent = new EventFd())
        using (var received = new ReceivedDescriptors())
        {
            first.Send([1], sent.Descriptor);
            second.Receive(stackalloc byte[8], received);
            using FileDescriptor here = received.Take(0);
            Assert.AreEqual(Fcntl.FD_CLOEXEC, LibC.fcntl(here.Number, Fcntl.F_GETFD, 0));
        }
    }

    [TestMethod]
    public void More_descriptors_than_this_process_may_open_are_reported_and_none_leaks()
    {
        (UnixSocket first, UnixSocket second) = UnixSocket.Pair();
        using (first)
        using (second)
        using (var sent = new EventFd())
        using (var received = new ReceivedDescriptors())
        {
            var many = new FileDescriptor[200];
            Array.Fill(many, sent.Descriptor);
            Assert.AreEqual(Errno.None, first.Send([1], many));
            int before = OpenDescriptors();
            using (new DescriptorLimit(50))
            {
                Assert.AreEqual(1, second.Receive(stackalloc byte[8], received));
            }

            Assert.IsTrue(received.Truncated);
            Assert.IsLessThan(200, received.Count);
            received.Dispose();
            Assert.AreEqual(before, OpenDescriptors());
        }
    }

    [TestMethod]
    public void Shutdown_ends_a_waiting_receive_and_a_waiting_accept()
    {
        (UnixSocket first, UnixSocket second) = UnixSocket.Pair();
        string path = Path.Combine(Directory.CreateTempSubdirectory("vfiopin-").FullName, "s");
        using (first)
        using (second)
        using (var listener = UnixSocket.Listen(path))
        {
            int received = -1;
            UnixSocket? accepted = first;
            var receiver = new Thread(() =>
            {
                using var descriptors = new ReceivedDescriptors();
                received = second.Receive(new byte[1], descriptors);
            });
            var acceptor = new Thread(() => accepted = listener.Accept());
            receiver.Start();
            acceptor.Start();
            second.Shutdown();
            listener.Shutdown();
            Assert.IsTrue(receiver.Join(TimeSpan.FromSeconds(20)));
            Assert.IsTrue(acceptor.Join(TimeSpan.FromSeconds(20)));
            Assert.AreEqual(0, received);
            Assert.IsNull(accepted);
        }

        Assert.IsFalse(File.Exists(path));
    }

    [TestMethod]
    public void A_path_that_cannot_be_bound_says_why()
    {
        string directory = Directory.CreateTempSubdirectory("vfiopin-").FullName;
        string file = Path.Combine(directory, "file");
        File.WriteAllText(file, string.Empty);
        foreach ((string path, Errno errno, string cause) in new[]
        {
            (Path.Combine(directory, "no", "s"), Errno.ENOENT, "the directory is not there"),
            (Path.Combine(file, "s"), Errno.ENOTDIR, "a part of the path is no directory"),
            (file, Errno.EADDRINUSE, "another process listens there, or the path is not a socket"),
        })
        {
            LinuxException e = Assert.ThrowsExactly<LinuxException>(() => UnixSocket.Listen(path));
            Assert.AreEqual((errno, path, cause), (e.Errno, e.Detail, e.Cause));
            Assert.IsNotNull(e.Cure);
        }

        Assert.IsTrue(File.Exists(file));
    }

    [TestMethod]
    public void A_path_left_by_a_dead_process_is_taken_over_and_a_live_one_is_not()
    {
        string path = Path.Combine(Directory.CreateTempSubdirectory("vfiopin-").FullName, "s");
        using (var live = UnixSocket.Listen(path))
        {
            LinuxException refused = Assert.ThrowsExactly<LinuxException>(() => UnixSocket.Listen(path));
            Assert.AreEqual(Errno.EADDRINUSE, refused.Errno);
            using UnixSocket client = UnixSocket.TryConnect(path, out _)!;
            using UnixSocket server = live.Accept()!;
            Assert.AreEqual(Environment.ProcessId, server.GetPeerCredentials().ProcessId);
            File.Move(path, path + ".kept");
        }

        File.Move(path + ".kept", path);
        using var second = UnixSocket.Listen(path);
        Assert.IsNotNull(second);
    }

    [TestMethod]
    public void A_message_without_room_is_refused_by_TrySend_and_waits_for_nobody()
    {
        (UnixSocket first, UnixSocket second) = UnixSocket.Pair();
        using (first)
        using (second)
        {
            Errno errno = Errno.None;
            byte[] bytes = new byte[64];
            for (int i = 0; i < 1_000_000 && errno == Errno.None; i++)
            {
                errno = first.TrySend(bytes);
            }

            Assert.AreEqual(Errno.EAGAIN, errno);
            second.Dispose();
            Assert.IsTrue(first.TrySend([1]) is Errno.EPIPE or Errno.ECONNRESET);
        }
    }

    private static int OpenDescriptors() => Directory.GetFiles("/proc/self/fd").Length;

    [TestMethod]
    public unsafe void Only_a_connected_stream_socket_of_this_machine_is_taken_over()
    {
        (UnixSocket first, UnixSocket second) = UnixSocket.Pair();
        using (first)
        using (second)
        {
            using UnixSocket? taken = UnixSocket.TryAdopt(Copy(first.Descriptor.Number));
            Assert.IsNotNull(taken);
        }

        const int Internet = 2;
        const int Datagram = 2;
        const int Packets = 5;
        int* ends = stackalloc int[2];
        foreach (int type in new[] { Datagram, Packets })
        {
            // SAFETY: room for the two numbers that the call writes.
            Assert.AreEqual(0, LibC.socketpair(Socket.AF_UNIX, type, 0, ends));
            Assert.IsNull(UnixSocket.TryAdopt(new FileDescriptor(LinuxKernel.Instance, ends[0])));
            Assert.IsNull(UnixSocket.TryAdopt(new FileDescriptor(LinuxKernel.Instance, ends[1])));
        }

        Assert.IsNull(UnixSocket.TryAdopt(new FileDescriptor(LinuxKernel.Instance, LibC.socket(Internet, Socket.SOCK_STREAM, 0))));
        Assert.IsNull(UnixSocket.TryAdopt(new FileDescriptor(LinuxKernel.Instance, LibC.socket(Internet, Datagram, 0))));
        using var eventFd = new EventFd();
        Assert.IsNull(UnixSocket.TryAdopt(Copy(eventFd.Descriptor.Number)));
    }

    [TestMethod]
    public void Only_memory_counts_as_memory()
    {
        using FileDescriptor memory = MemoryFile.Create("memory", 4096);
        Assert.IsTrue(SharedFile.Of(memory) is { IsMemory: true, CannotShrink: true, Size: 4096 });
        using FileDescriptor open = MemoryFile.Create("memory", 4096, canShrink: true);
        Assert.IsTrue(SharedFile.Of(open) is { IsMemory: true, CannotShrink: false });
        // A file of a file system that has to be asked for each page, and a device.
        foreach (string path in new[] { "/proc/self/status", "/dev/zero" })
        {
            using FileDescriptor other = FileDescriptor.Open(LinuxKernel.Instance, path, Fcntl.O_RDONLY);
            Assert.IsFalse(SharedFile.Of(other).IsMemory, path);
        }
    }

    private static FileDescriptor Copy(int number) => new(LinuxKernel.Instance, LibC.dup(number));

    [TestMethod]
    public void Connecting_to_one_who_takes_nobody_ends_at_once()
    {
        string path = Path.Combine(Path.GetTempPath(), $"vfiopin-full-{Guid.NewGuid():N}");
        using UnixSocket listener = UnixSocket.Listen(path);
        var waiting = new List<UnixSocket>();
        Errno errno;
        while (UnixSocket.TryConnect(path, out errno) is { } socket)
        {
            waiting.Add(socket);
            Assert.IsLessThan(1000, waiting.Count);
        }

        Assert.AreEqual(Errno.EAGAIN, errno);
        // One that connected waits as ever.
        Assert.AreEqual(0, LibC.fcntl(waiting[0].Descriptor.Number, Fcntl.F_GETFL, 0) & Fcntl.O_NONBLOCK);
        waiting.ForEach(w => w.Dispose());
    }
}
