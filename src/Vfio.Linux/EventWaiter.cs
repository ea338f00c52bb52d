using System.Runtime.CompilerServices;

namespace Vfio.Linux;

/// <summary>Lets one thread sleep until any of many descriptors is signalled. It never reads them: each signal wakes once
/// (edge-triggered, but for <see cref="AddReadable"/>), so a descriptor that a peer owns too cannot make the thread block.</summary>
/// <remarks>Adding and removing is thread-safe, also while the thread sleeps.</remarks>
public sealed unsafe class EventWaiter : IDisposable
{
    private const int Batch = 16;
    private const uint Signalled = Epoll.EPOLLIN | Epoll.EPOLLET;
    private const uint Readable = Epoll.EPOLLIN;

    private readonly FileDescriptor _descriptor;

    /// <summary>Makes one that watches nothing.</summary>
    /// <exception cref="LinuxException">epoll_create1(2) failed.</exception>
    public EventWaiter()
    {
        int result = LibC.epoll_create1(Epoll.EPOLL_CLOEXEC);
        if (result < 0)
        {
            throw new LinuxException("epoll_create1", (Errno)LibC.errno, string.Empty);
        }

        _descriptor = new FileDescriptor(LinuxKernel.Instance, result);
    }

    /// <summary>Watches a descriptor; one that is signalled already wakes at once.</summary>
    /// <param name="descriptor">The descriptor. It must be removed before it is closed, as its peer keeps it open.</param>
    /// <param name="tag">Told by <see cref="Wait"/> when it was signalled.</param>
    /// <exception cref="LinuxException">epoll_ctl(2) failed.</exception>
    public void Add(FileDescriptor descriptor, ulong tag) => Control(Epoll.EPOLL_CTL_ADD, descriptor, Signalled, tag);

    /// <summary>Watches a descriptor as long as there is something to read from it: who leaves some is woken for it again.</summary>
    /// <param name="descriptor">As for <see cref="Add"/>.</param>
    /// <param name="tag">As for <see cref="Add"/>.</param>
    /// <exception cref="LinuxException">epoll_ctl(2) failed.</exception>
    public void AddReadable(FileDescriptor descriptor, ulong tag) => Control(Epoll.EPOLL_CTL_ADD, descriptor, Readable, tag);

    /// <summary>Sleeps through a descriptor's signals until <see cref="Resume"/>; the end of a connection still wakes.</summary>
    /// <param name="descriptor">A descriptor that was added.</param>
    /// <exception cref="LinuxException">epoll_ctl(2) failed.</exception>
    public void Pause(FileDescriptor descriptor) => Control(Epoll.EPOLL_CTL_MOD, descriptor, Epoll.EPOLLET, 0);

    /// <summary>Watches it again, as <see cref="AddReadable"/> does.</summary>
    /// <param name="descriptor">A descriptor that was added.</param>
    /// <param name="tag">As for <see cref="Add"/>.</param>
    /// <exception cref="LinuxException">epoll_ctl(2) failed.</exception>
    public void Resume(FileDescriptor descriptor, ulong tag) => Control(Epoll.EPOLL_CTL_MOD, descriptor, Readable, tag);

    /// <summary>Watches it no longer.</summary>
    /// <param name="descriptor">The descriptor.</param>
    /// <exception cref="LinuxException">epoll_ctl(2) failed.</exception>
    public void Remove(FileDescriptor descriptor) => Control(Epoll.EPOLL_CTL_DEL, descriptor, 0, 0);

    /// <summary>Sleeps.</summary>
    /// <param name="timeout">How long at most; <see cref="Timeout.InfiniteTimeSpan"/> for ever.</param>
    /// <param name="tags">Filled from the front with the tags of those that were signalled; not empty. At most 16 come at a time.</param>
    /// <returns>How many descriptors were signalled; 0 when the time ran out.</returns>
    /// <exception cref="LinuxException">epoll_wait(2) failed.</exception>
    // Of the events only those are read that the kernel wrote.
    [SkipLocalsInit]
    public int Wait(TimeSpan timeout, Span<ulong> tags)
    {
        ArgumentOutOfRangeException.ThrowIfZero(tags.Length, nameof(tags));
        epoll_event* events = stackalloc epoll_event[Batch];
        int milliseconds = timeout == Timeout.InfiniteTimeSpan ? -1 : (int)Math.Min(timeout.TotalMilliseconds, int.MaxValue);
        // SAFETY: room for Batch events.
        int result = LibC.epoll_wait(_descriptor.Number, events, Math.Min(Batch, tags.Length), milliseconds);
        if (result < 0 && LibC.errno != (int)Errno.EINTR)
        {
            throw new LinuxException("epoll_wait", (Errno)LibC.errno, string.Empty);
        }

        for (int i = 0; i < result; i++)
        {
            tags[i] = events[i].data;
        }

        return Math.Max(result, 0);
    }

    /// <inheritdoc/>
    public void Dispose() => _descriptor.Dispose();

    private void Control(int operation, FileDescriptor descriptor, uint events, ulong tag)
    {
        ArgumentNullException.ThrowIfNull(descriptor);
        var wanted = new epoll_event { events = events, data = tag };
        // SAFETY: a local.
        if (LibC.epoll_ctl(_descriptor.Number, operation, descriptor.Number, &wanted) < 0)
        {
            throw new LinuxException("epoll_ctl", (Errno)LibC.errno, $"descriptor {descriptor.Number}");
        }
    }
}
