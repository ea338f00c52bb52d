namespace Vfio.Linux;

/// <summary>An eventfd(2): a 64-bit counter that one side adds to and another waits for. Non-blocking.</summary>
/// <remarks>Thread-safe. Always a real one, in tests too.</remarks>
public sealed unsafe class EventFd : IDisposable
{
    private readonly FileDescriptor _descriptor;

    // A peer holds it too, and may make it block at any time.
    private readonly bool _isShared;

    /// <summary>Makes a new one, with counter 0.</summary>
    /// <exception cref="LinuxException">eventfd(2) failed.</exception>
    public EventFd()
    {
        int result = LibC.eventfd(0, EventFdFlags.EFD_CLOEXEC | EventFdFlags.EFD_NONBLOCK);
        if (result < 0)
        {
            throw new LinuxException("eventfd", (Errno)LibC.errno, string.Empty);
        }

        _descriptor = new FileDescriptor(LinuxKernel.Instance, result);
    }

    /// <summary>Wraps one that a peer sent; takes ownership.</summary>
    /// <param name="descriptor">The descriptor.</param>
    public EventFd(FileDescriptor descriptor)
    {
        ArgumentNullException.ThrowIfNull(descriptor);
        _descriptor = descriptor;
    }

    private EventFd(FileDescriptor descriptor, bool isShared)
    {
        _descriptor = descriptor;
        _isShared = isShared;
    }

    /// <summary>Takes over a descriptor that a peer sent, if it is an eventfd: a pipe would let the peer hold up whoever signals it.
    /// It is signalled in a way that never waits, whatever the peer does to it.</summary>
    /// <param name="descriptor">The descriptor; closed when it is something else.</param>
    /// <returns>The eventfd, or null.</returns>
    public static EventFd? TryAdopt(FileDescriptor descriptor)
    {
        ArgumentNullException.ThrowIfNull(descriptor);
        // fs/eventfd.c names its files so. No path can look the same: it would start with a slash.
        string? kind = new FileInfo($"/proc/self/fd/{descriptor.Number}").LinkTarget;
        int flags = LibC.fcntl(descriptor.Number, Fcntl.F_GETFL, 0);
        if (kind == "anon_inode:[eventfd]" && flags >= 0
            && LibC.fcntl(descriptor.Number, Fcntl.F_SETFL, flags | Fcntl.O_NONBLOCK) >= 0)
        {
            return new EventFd(descriptor, isShared: true);
        }

        descriptor.Dispose();
        return null;
    }

    /// <summary>The descriptor, to hand to the kernel or a peer.</summary>
    public FileDescriptor Descriptor => _descriptor;

    /// <summary>Adds 1 to the counter, which wakes a waiter. A full counter is already a signal, so that is no error.</summary>
    /// <exception cref="LinuxException">The kernel would not, for another reason.</exception>
    public void Signal()
    {
        Errno errno = TrySignal();
        if (errno != Errno.None)
        {
            throw new LinuxException(_isShared ? "io_submit" : "write", errno, "eventfd");
        }
    }

    /// <summary>As <see cref="Signal"/>, for threads that must go on.</summary>
    /// <returns><see cref="Errno.None"/>, or why it was not signalled.</returns>
    public Errno TrySignal()
    {
        if (_isShared && KernelSignal.IsAvailable)
        {
            return KernelSignal.Send(_descriptor.Number);
        }

        ulong one = 1;
        // SAFETY: eight bytes of a local.
        return LibC.write(_descriptor.Number, &one, sizeof(ulong)) >= 0 || LibC.errno == (int)Errno.EAGAIN
            ? Errno.None : (Errno)LibC.errno;
    }

    /// <summary>Takes the counter and sets it to 0.</summary>
    /// <returns>The signals since the last time; 0 where there were none.</returns>
    /// <exception cref="LinuxException">read(2) failed.</exception>
    public ulong Take()
    {
        ulong count = 0;
        // SAFETY: eight bytes of a local.
        if (LibC.read(_descriptor.Number, &count, sizeof(ulong)) < 0 && LibC.errno != (int)Errno.EAGAIN)
        {
            throw new LinuxException("read", (Errno)LibC.errno, "eventfd");
        }

        return count;
    }

    /// <summary>Waits until the counter is not 0.</summary>
    /// <param name="timeout">How long; <see cref="Timeout.InfiniteTimeSpan"/> for ever.</param>
    /// <returns>False when the time ran out first.</returns>
    /// <exception cref="LinuxException">poll(2) failed.</exception>
    public bool Wait(TimeSpan timeout)
    {
        long deadline = timeout == Timeout.InfiniteTimeSpan ? long.MaxValue
            : Environment.TickCount64 + (long)timeout.TotalMilliseconds;
        while (true)
        {
            int left = deadline == long.MaxValue ? -1
                : (int)Math.Clamp(deadline - Environment.TickCount64, 0, int.MaxValue);
            var poll = new pollfd { fd = _descriptor.Number, events = Linux.Poll.POLLIN };
            // SAFETY: one pollfd, a local.
            int result = LibC.poll(&poll, 1, left);
            if (result >= 0)
            {
                return result > 0;
            }

            if (LibC.errno != (int)Errno.EINTR)
            {
                throw new LinuxException("poll", (Errno)LibC.errno, "eventfd");
            }
        }
    }

    /// <inheritdoc/>
    public void Dispose() => _descriptor.Dispose();
}
