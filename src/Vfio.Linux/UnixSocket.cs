using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Text;

namespace Vfio.Linux;

/// <summary>A stream socket of this machine that passes descriptors (SCM_RIGHTS), which System.Net.Sockets does not.
/// Every descriptor is close-on-exec from the moment it exists.</summary>
/// <remarks>One thread may send while another receives. <see cref="Shutdown"/> from any thread ends a blocked call.</remarks>
public sealed unsafe class UnixSocket : IDisposable
{
    // SCM_MAX_FD of include/net/scm.h: the kernel never passes more in one message, so this never truncates for want of room.
    private const int MaxDescriptors = 253;

    private readonly FileDescriptor _descriptor;
    private readonly string? _boundPath;

    /// <summary>Wraps a socket that was made elsewhere; takes ownership.</summary>
    /// <param name="descriptor">The socket.</param>
    public UnixSocket(FileDescriptor descriptor)
        : this(descriptor, null)
    {
    }

    private UnixSocket(FileDescriptor descriptor, string? boundPath)
    {
        ArgumentNullException.ThrowIfNull(descriptor);
        _descriptor = descriptor;
        _boundPath = boundPath;
    }

    /// <summary>The descriptor, to wait on.</summary>
    public FileDescriptor Descriptor => _descriptor;

    /// <summary>Who is at the other end.</summary>
    /// <returns>The process, user and group that connected or listened.</returns>
    /// <exception cref="LinuxException">getsockopt(2) failed.</exception>
    public UnixCredentials GetPeerCredentials()
    {
        ucred credentials;
        uint length = (uint)sizeof(ucred);
        // SAFETY: a local, and its own size.
        int result = LibC.getsockopt(
            _descriptor.Number, Linux.Socket.SOL_SOCKET, Linux.Socket.SO_PEERCRED, &credentials, &length);
        return result < 0
            ? throw new LinuxException("getsockopt(SO_PEERCRED)", (Errno)LibC.errno, string.Empty)
            : new UnixCredentials(credentials.pid, credentials.uid, credentials.gid);
    }

    /// <summary>The supplementary groups of who is at the other end, as recorded when the connection was made.</summary>
    /// <returns>The groups.</returns>
    /// <exception cref="LinuxException">getsockopt(2) failed.</exception>
    public IReadOnlyList<uint> GetPeerGroups()
    {
        uint[] groups = new uint[32];
        while (true)
        {
            uint length = (uint)(groups.Length * sizeof(uint));
            // SAFETY: the array is pinned for the call, and its length in bytes is told.
            fixed (uint* pointer = groups)
            {
                int result = LibC.getsockopt(
                    _descriptor.Number, Linux.Socket.SOL_SOCKET, Linux.Socket.SO_PEERGROUPS, pointer, &length);
                if (result >= 0)
                {
                    return groups[..(int)(length / sizeof(uint))];
                }
            }

            var errno = (Errno)LibC.errno;
            // net/core/sock.c, sk_getsockopt: ERANGE comes with the length that is needed.
            if (errno != Errno.ERANGE)
            {
                throw new LinuxException("getsockopt(SO_PEERGROUPS)", errno, string.Empty);
            }

            groups = new uint[length / sizeof(uint)];
        }
    }

    /// <summary>A socket that this process was started with.</summary>
    /// <param name="number">Its descriptor; owned from now on.</param>
    /// <returns>The socket.</returns>
    public static UnixSocket Inherited(int number) => new(new FileDescriptor(LinuxKernel.Instance, number));

    /// <summary>Takes over a descriptor that a peer sent, if it is a stream socket of this machine: only of these is it known that a
    /// send that must not wait does not, and that it goes nowhere else.</summary>
    /// <param name="descriptor">The descriptor; closed when it is something else.</param>
    /// <returns>The socket, or null.</returns>
    public static UnixSocket? TryAdopt(FileDescriptor descriptor)
    {
        ArgumentNullException.ThrowIfNull(descriptor);
        if (Option(descriptor, Linux.Socket.SO_DOMAIN) == Linux.Socket.AF_UNIX
            && Option(descriptor, Linux.Socket.SO_TYPE) == Linux.Socket.SOCK_STREAM
            && Option(descriptor, Linux.Socket.SO_ACCEPTCONN) == 0)
        {
            return new UnixSocket(descriptor);
        }

        descriptor.Dispose();
        return null;
    }

    /// <summary>Two connected sockets.</summary>
    /// <returns>Both ends.</returns>
    /// <exception cref="LinuxException">socketpair(2) failed.</exception>
    public static (UnixSocket First, UnixSocket Second) Pair()
    {
        int* ends = stackalloc int[2];
        // SAFETY: room for the two numbers that the call writes.
        if (LibC.socketpair(Linux.Socket.AF_UNIX, Linux.Socket.SOCK_STREAM | Linux.Socket.SOCK_CLOEXEC, 0, ends) < 0)
        {
            throw new LinuxException("socketpair", (Errno)LibC.errno, string.Empty);
        }

        return (new UnixSocket(new FileDescriptor(LinuxKernel.Instance, ends[0])),
            new UnixSocket(new FileDescriptor(LinuxKernel.Instance, ends[1])));
    }

    /// <summary>Listens at a path. A socket that a dead process left there is replaced; a live one is not. Disposing removes
    /// the path.</summary>
    /// <param name="path">The path, at most 107 bytes.</param>
    /// <returns>The listening socket.</returns>
    /// <exception cref="LinuxException">socket(2), bind(2) or listen(2) failed; EADDRINUSE where somebody listens there, ENAMETOOLONG where
    /// the path does not fit (unix(7)).</exception>
    public static UnixSocket Listen(string path)
    {
        sockaddr_un address = Address(path, "bind");
        FileDescriptor descriptor = Create();
        try
        {
            Errno errno = Bind(descriptor, &address);
            if (errno == Errno.EADDRINUSE && IsStale(path))
            {
                File.Delete(path);
                errno = Bind(descriptor, &address);
            }

            if (errno != Errno.None)
            {
                throw new LinuxException("bind", errno, path);
            }

            return LibC.listen(descriptor.Number, 8) < 0
                ? throw new LinuxException("listen", (Errno)LibC.errno, path)
                : new UnixSocket(descriptor, path);
        }
        catch
        {
            descriptor.Dispose();
            throw;
        }
    }

    /// <summary>Connects to whoever listens at a path, at once or not at all.</summary>
    /// <param name="path">The path, at most 107 bytes.</param>
    /// <param name="errno">Why it did not work, else <see cref="Errno.None"/>.</param>
    /// <returns>The connection, or null: ENOENT and ECONNREFUSED mean that nobody listens (yet), EAGAIN that the listener has not taken
    /// those who came before.</returns>
    /// <exception cref="LinuxException">There are no more descriptors, or the path does not fit (ENAMETOOLONG, unix(7)).</exception>
    public static UnixSocket? TryConnect(string path, out Errno errno)
    {
        sockaddr_un address = Address(path, "connect");
        FileDescriptor descriptor = Create(Linux.Socket.SOCK_NONBLOCK);
        // SAFETY: a local, and its own size.
        if (LibC.connect(descriptor.Number, &address, (uint)sizeof(sockaddr_un)) < 0
            || LibC.fcntl(descriptor.Number, Fcntl.F_SETFL, LibC.fcntl(descriptor.Number, Fcntl.F_GETFL, 0) & ~Fcntl.O_NONBLOCK) < 0)
        {
            errno = (Errno)LibC.errno;
            descriptor.Dispose();
            return null;
        }

        errno = Errno.None;
        return new UnixSocket(descriptor);
    }

    /// <summary>Waits for a connection.</summary>
    /// <returns>The connection, or null after <see cref="Shutdown"/>.</returns>
    /// <exception cref="LinuxException">accept4(2) failed.</exception>
    public UnixSocket? Accept()
    {
        while (true)
        {
            // SAFETY: no address is asked for.
            int result = LibC.accept4(_descriptor.Number, null, null, Linux.Socket.SOCK_CLOEXEC);
            if (result >= 0)
            {
                return new UnixSocket(new FileDescriptor(LinuxKernel.Instance, result));
            }

            switch ((Errno)LibC.errno)
            {
                case Errno.EINTR or Errno.ECONNABORTED:
                    continue;
                case Errno.EINVAL:
                    // net/unix/af_unix.c, unix_accept: what a listening socket says once it is shut down.
                    return null;
                default:
                    throw new LinuxException("accept4", (Errno)LibC.errno, _boundPath ?? string.Empty);
            }
        }
    }

    /// <summary>Receives what is there, at least one byte, and the descriptors that came with it.</summary>
    /// <param name="buffer">Where the bytes go; not empty.</param>
    /// <param name="descriptors">Gets the descriptors added.</param>
    /// <returns>Bytes; 0 when the other end closed or <see cref="Shutdown"/> was called; a negated errno else.</returns>
    public int Receive(Span<byte> buffer, ReceivedDescriptors descriptors) => Receive(buffer, descriptors, 0);

    /// <summary>As <see cref="Receive(Span{byte}, ReceivedDescriptors)"/>, for threads that must not wait.</summary>
    /// <param name="buffer">Where the bytes go; not empty.</param>
    /// <param name="descriptors">Gets the descriptors added.</param>
    /// <returns>As there; -EAGAIN when there is nothing.</returns>
    public int TryReceive(Span<byte> buffer, ReceivedDescriptors descriptors) =>
        Receive(buffer, descriptors, Linux.Socket.MSG_DONTWAIT);

    /// <summary>Sends bytes and, with the first of them, descriptors; waits for room.</summary>
    /// <param name="bytes">The bytes; not empty.</param>
    /// <param name="descriptors">The descriptors, which stay the caller's.</param>
    /// <returns><see cref="Errno.None"/>, or why not all was sent; EPIPE and ECONNRESET mean that the other end is gone.</returns>
    public Errno Send(ReadOnlySpan<byte> bytes, params ReadOnlySpan<FileDescriptor> descriptors) =>
        Send(bytes, descriptors, 0);

    /// <summary>Sends a small message if there is room for it now, for threads that must not wait.</summary>
    /// <param name="bytes">The bytes; not empty.</param>
    /// <returns><see cref="Errno.None"/>; EAGAIN when there is no room; else why.</returns>
    public Errno TrySend(ReadOnlySpan<byte> bytes) => Send(bytes, [], Linux.Socket.MSG_DONTWAIT);

    /// <summary>Ends both directions: calls that wait return, here and at the other end.</summary>
    // ENOTCONN, from a connection that is gone already, is what was wanted.
    public void Shutdown() => _ = LibC.shutdown(_descriptor.Number, Linux.Socket.SHUT_RDWR);

    /// <inheritdoc/>
    public void Dispose()
    {
        bool first = !_descriptor.IsClosed;
        _descriptor.Dispose();
        if (first && _boundPath is not null)
        {
            File.Delete(_boundPath);
        }
    }

    // -1 for what is no socket.
    private static int Option(FileDescriptor descriptor, int option)
    {
        int value;
        uint length = sizeof(int);
        // SAFETY: a local, and its own size.
        return LibC.getsockopt(descriptor.Number, Linux.Socket.SOL_SOCKET, option, &value, &length) < 0 ? -1 : value;
    }

    private static FileDescriptor Create(int flags = 0)
    {
        int result = LibC.socket(Linux.Socket.AF_UNIX, Linux.Socket.SOCK_STREAM | Linux.Socket.SOCK_CLOEXEC | flags, 0);
        return result < 0
            ? throw new LinuxException("socket", (Errno)LibC.errno, "AF_UNIX")
            : new FileDescriptor(LinuxKernel.Instance, result);
    }

    // SAFETY: the caller's local, and its own size.
    private static Errno Bind(FileDescriptor descriptor, sockaddr_un* address) =>
        LibC.bind(descriptor.Number, address, (uint)sizeof(sockaddr_un)) < 0 ? (Errno)LibC.errno : Errno.None;

    private static sockaddr_un Address(string path, string call)
    {
        sockaddr_un address = default;
        address.sun_family = Linux.Socket.AF_UNIX;
        int length = Encoding.UTF8.GetByteCount(path);
        // unix(7): the path ends with a NUL byte inside its 108 bytes.
        if (length is 0 or > 107)
        {
            throw new LinuxException(
                call, length == 0 ? Errno.EINVAL : Errno.ENAMETOOLONG, path, $"the path of a socket has 1 to 107 bytes, not {length}", "choose another path");
        }

        Encoding.UTF8.GetBytes(path, new Span<byte>(address.sun_path, 107));
        return address;
    }

    private static bool IsStale(string path)
    {
        statx status;
        // connect(2) refuses what is no socket as it refuses a socket without a listener; only the latter may be removed.
        // SAFETY: a local of the size that the call fills.
        if (LibC.statx(StatFlags.AT_FDCWD, path, StatFlags.AT_SYMLINK_NOFOLLOW, Stat.STATX_BASIC_STATS, &status) < 0
            || (status.stx_mode & Stat.S_IFMT) != Stat.S_IFSOCK)
        {
            return false;
        }

        using UnixSocket? probe = TryConnect(path, out Errno errno);
        return probe is null && errno == Errno.ECONNREFUSED;
    }

    // cmsg(3): CMSG_SPACE of a message with so many descriptors; headers and data are aligned to 8 bytes.
    private static int ControlSpace(int descriptors) => sizeof(cmsghdr) + (((descriptors * sizeof(int)) + 7) & ~7);

    private static void TakeControl(in msghdr message, ReceivedDescriptors descriptors)
    {
        // net/core/scm.c, scm_detach_fds: what did not fit was never installed here, so there is nothing to close.
        descriptors.Truncated |= (message.msg_flags & Linux.Socket.MSG_CTRUNC) != 0;
        byte* next = (byte*)message.msg_control;
        byte* end = next + message.msg_controllen;
        // SAFETY: the kernel wrote msg_controllen bytes of well-formed messages; each length is checked against the end.
        while (end - next >= sizeof(cmsghdr))
        {
            cmsghdr header = *(cmsghdr*)next;
            if (header.cmsg_len < (nuint)sizeof(cmsghdr) || header.cmsg_len > (nuint)(end - next))
            {
                return;
            }

            if (header.cmsg_level == Linux.Socket.SOL_SOCKET && header.cmsg_type == Linux.Socket.SCM_RIGHTS)
            {
                int count = ((int)header.cmsg_len - sizeof(cmsghdr)) / sizeof(int);
                foreach (int number in new ReadOnlySpan<int>(next + sizeof(cmsghdr), count))
                {
                    descriptors.Add(number);
                }
            }

            next += ((int)header.cmsg_len + 7) & ~7;
        }
    }

    // The control buffer is not cleared: of it only that is read which the kernel wrote.
    [SkipLocalsInit]
    private int Receive(Span<byte> buffer, ReceivedDescriptors descriptors, int flags)
    {
        ArgumentNullException.ThrowIfNull(descriptors);
        byte* control = stackalloc byte[ControlSpace(MaxDescriptors)];
        // SAFETY: the span is pinned for the calls; every length handed over is the buffer's own.
        fixed (byte* bytes = buffer)
        {
            var part = new iovec { iov_base = bytes, iov_len = (nuint)buffer.Length };
            nint result;
            msghdr message;
            do
            {
                message = new msghdr
                {
                    msg_iov = &part,
                    msg_iovlen = 1,
                    msg_control = control,
                    msg_controllen = (nuint)ControlSpace(MaxDescriptors),
                };
                result = LibC.recvmsg(_descriptor.Number, &message, flags | Linux.Socket.MSG_CMSG_CLOEXEC);
            }
            while (result < 0 && LibC.errno == (int)Errno.EINTR);
            if (result < 0)
            {
                return -LibC.errno;
            }

            TakeControl(in message, descriptors);
            return (int)result;
        }
    }

    // Nor here: PutControl writes all that the kernel is told of.
    [SkipLocalsInit]
    private Errno Send(ReadOnlySpan<byte> bytes, ReadOnlySpan<FileDescriptor> descriptors, int flags)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(descriptors.Length, MaxDescriptors);
        byte* control = stackalloc byte[ControlSpace(MaxDescriptors)];
        // SAFETY: the span is pinned for the calls; the control buffer holds MaxDescriptors, checked above.
        fixed (byte* start = bytes)
        {
            int sent = 0;
            while (sent < bytes.Length)
            {
                var part = new iovec { iov_base = start + sent, iov_len = (nuint)(bytes.Length - sent) };
                var message = new msghdr { msg_iov = &part, msg_iovlen = 1 };
                if (sent == 0 && descriptors.Length > 0)
                {
                    message.msg_control = control;
                    message.msg_controllen = PutControl(control, descriptors);
                }

                nint result = LibC.sendmsg(_descriptor.Number, &message, flags | Linux.Socket.MSG_NOSIGNAL);
                if (result >= 0)
                {
                    sent += (int)result;
                }
                else if (LibC.errno != (int)Errno.EINTR)
                {
                    return (Errno)LibC.errno;
                }
            }

            return Errno.None;
        }
    }

    private static nuint PutControl(byte* control, ReadOnlySpan<FileDescriptor> descriptors)
    {
        int space = ControlSpace(descriptors.Length);
        NativeMemory.Clear(control, (nuint)space);
        *(cmsghdr*)control = new cmsghdr
        {
            cmsg_len = (nuint)(sizeof(cmsghdr) + (descriptors.Length * sizeof(int))),
            cmsg_level = Linux.Socket.SOL_SOCKET,
            cmsg_type = Linux.Socket.SCM_RIGHTS,
        };
        for (int i = 0; i < descriptors.Length; i++)
        {
            ((int*)(control + sizeof(cmsghdr)))[i] = descriptors[i].Number;
        }

        return (nuint)space;
    }
}
