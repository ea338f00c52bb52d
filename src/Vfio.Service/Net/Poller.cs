using System.Diagnostics;
using Vfio.Linux;
using Vfio.VhostUser;

namespace Vfio.Service;

/// <summary>A thread on a processor of its own that does <see cref="IPollable"/> work: it spins while there is some, and sleeps
/// when there was none for a while.</summary>
/// <remarks>Members are thread-safe, and not for the poller's own thread.</remarks>
public sealed class Poller : IDisposable
{
    // Signals taken at a time; more wake it again at once.
    private const int MostSignals = 16;

    // Waking a sleeper costs a driver a system call and the poller about 50 us: worth a few hundred microseconds of spinning.
    private static readonly long SpinTicks = Stopwatch.Frequency / 2000;

    private readonly GracePeriod _grace;
    private readonly GracePeriodReader _reader;
    private readonly TimeSpan _longestSleep;
    private readonly Thread _thread;
    private readonly EventFd _wake = new();
    private readonly EventWaiter _events = new();
    private readonly Lock _change = new();
    private readonly Dictionary<EventFd, int> _slots = [];
    private IPollable[] _work = [];
    // By the number that the waiter tells; 0 is the wake-up of this object's own.
    private NetQueueCounters?[] _watched = [null];
    private IPollable? _current;
    private bool _stop;

    /// <summary>Starts the thread.</summary>
    /// <param name="name">Its name, and how it is called in messages.</param>
    /// <param name="processor">The processor that it stays on; null leaves it to the scheduler.</param>
    /// <param name="grace">What takes things away from it.</param>
    /// <param name="longestSleep">After how long it looks at its work though nothing woke it.</param>
    /// <exception cref="LinuxException">The thread may not run on that processor.</exception>
    public Poller(string name, Processor? processor, GracePeriod grace, TimeSpan longestSleep)
    {
        ArgumentNullException.ThrowIfNull(grace);
        _grace = grace;
        _longestSleep = longestSleep;
        _reader = grace.Register(name);
        _events.Add(_wake.Descriptor, 0);
        using var started = new ManualResetEventSlim();
        Exception? refused = null;
        _thread = new Thread(() =>
        {
            try
            {
                processor?.PinCurrentThread();
            }
            catch (LinuxException e)
            {
                refused = e;
                return;
            }
            finally
            {
                started.Set();
            }

            Run();
        })
        {
            Name = name,
            IsBackground = true,
        };
        _thread.Start();
        started.Wait();
        if (refused is not null)
        {
            Dispose();
            throw refused;
        }
    }

    /// <summary>Times that a kick woke it.</summary>
    public long Kicks { get; private set; }

    /// <summary>Rounds over all its work.</summary>
    public long Rounds { get; private set; }

    /// <summary>Whether it sleeps at this moment.</summary>
    public bool IsParked => _reader.IsParked;

    /// <summary>How much work it has.</summary>
    // ORDER: acquire of a whole array; pairs with the release in Add and Remove.
    public int WorkCount => Volatile.Read(ref _work).Length;

    /// <summary>Lets a kick wake it beside <see cref="Wake"/>.</summary>
    /// <param name="kick">Signalled by the driver; until <see cref="Unwatch"/> it stays open.</param>
    /// <param name="counters">Where each time that it woke the thread is counted.</param>
    /// <exception cref="LinuxException">epoll_ctl(2) failed.</exception>
    public void Watch(EventFd kick, NetQueueCounters counters)
    {
        ArgumentNullException.ThrowIfNull(kick);
        lock (_change)
        {
            int free = Array.IndexOf(_watched, null, 1);
            int slot = free < 0 ? _watched.Length : free;
            _events.Add(kick.Descriptor, (ulong)slot);
            _slots.Add(kick, slot);
            NetQueueCounters?[] watched = [.. _watched, .. free < 0 ? (NetQueueCounters?[])[null] : []];
            watched[slot] = counters;
            // ORDER: release of a whole array; pairs with the acquire in Sleep.
            Volatile.Write(ref _watched, watched);
        }
    }

    /// <summary>Forgets a kick.</summary>
    /// <param name="kick">What was watched.</param>
    /// <exception cref="LinuxException">epoll_ctl(2) failed.</exception>
    public void Unwatch(EventFd kick)
    {
        ArgumentNullException.ThrowIfNull(kick);
        lock (_change)
        {
            if (_slots.Remove(kick, out int slot))
            {
                NetQueueCounters?[] watched = [.. _watched];
                watched[slot] = null;
                // ORDER: as in Watch.
                Volatile.Write(ref _watched, watched);
                _events.Remove(kick.Descriptor);
            }
        }
    }

    /// <summary>Adds work.</summary>
    /// <param name="work">The work.</param>
    public void Add(IPollable work)
    {
        lock (_change)
        {
            // ORDER: release of a whole array; pairs with the acquire in PollOnce.
            Volatile.Write(ref _work, [.. _work, work]);
        }

        Wake();
    }

    /// <summary>Takes work away. When this returns no batch of the thread touches it; a last <see cref="IPollable.WorkWhileParked"/> may still be
    /// under way.</summary>
    /// <param name="work">The work.</param>
    /// <exception cref="TimeoutException">The thread is stuck in a batch.</exception>
    public void Remove(IPollable work)
    {
        lock (_change)
        {
            // ORDER: as in Add; the grace period does the rest.
            Volatile.Write(ref _work, [.. _work.Where(w => w != work)]);
        }

        _grace.Wait(NetEngine.StallTimeout);
    }

    /// <summary>Makes it look at its work now.</summary>
    public void Wake() => _wake.Signal();

    /// <summary>Ends the thread.</summary>
    public void Dispose()
    {
        // ORDER: a flag; the wake-up that follows is a system call.
        Volatile.Write(ref _stop, true);
        Wake();
        _thread.Join();
        _grace.Unregister(_reader);
        _events.Dispose();
        _wake.Dispose();
    }

    private void Run()
    {
        _reader.Unpark();
        bool goesOn = true;
        while (goesOn)
        {
            try
            {
                Work();
                goesOn = false;
            }
            catch (Exception e) when (_current is not null)
            {
                // A fault of this program's, which one guest may have found: the work of the others is no less whole for it. An access
                // outside of mapped memory does not come here: for that the runtime ends the process.
                if (_reader.IsParked)
                {
                    _reader.Unpark();
                }

                IPollable failed = _current;
                _current = null;
                failed.Fail(e);
            }
        }

        _reader.Park();
    }

    private void Work()
    {
        long idleSince = 0;
        // ORDER: a flag, set with a wake-up behind it.
        while (!Volatile.Read(ref _stop))
        {
            if (PollOnce())
            {
                idleSince = 0;
                continue;
            }

            long now = Stopwatch.GetTimestamp();
            idleSince = idleSince == 0 ? now : idleSince;
            if (now - idleSince > SpinTicks)
            {
                Sleep();
                idleSince = 0;
            }
        }
    }

    // An ordinary method, called over and over, so that the JIT compiles it for good.
    private bool PollOnce()
    {
        bool any = false;
        bool parks = false;
        // ORDER: acquire of the whole array; pairs with the release in Add and Remove.
        IPollable[] work = Volatile.Read(ref _work);
        foreach (IPollable item in work)
        {
            _current = item;
            any |= item.PollOnce();
            parks |= item.HasWorkWhileParked;
        }

        _current = null;
        Rounds++;
        if (parks)
        {
            return WorkWhileParked(work) || any;
        }

        _reader.Quiesce();
        return any;
    }

    // Two pollers that wait for each other's batch inside of theirs would wait for ever.
    private bool WorkWhileParked(IPollable[] work)
    {
        bool any = false;
        _reader.Park();
        foreach (IPollable item in work)
        {
            _current = item;
            any |= item.WorkWhileParked(Rounds);
        }

        _current = null;
        _reader.Unpark();
        return any;
    }

    private void Sleep()
    {
        bool mustStay = false;
        IPollable[] work = Volatile.Read(ref _work);
        foreach (IPollable item in work)
        {
            _current = item;
            mustStay |= item.EnableNotifications();
        }

        _current = null;
        if (!mustStay)
        {
            Span<ulong> signalled = stackalloc ulong[MostSignals];
            _reader.Park();
            int count = _events.Wait(_longestSleep, signalled);
            _reader.Unpark();
            Count(signalled[..count]);
            work = Volatile.Read(ref _work);
        }

        foreach (IPollable item in work)
        {
            _current = item;
            item.DisableNotifications();
        }

        _current = null;
        _reader.Quiesce();
    }

    private void Count(ReadOnlySpan<ulong> signalled)
    {
        // ORDER: acquire; pairs with the release in Watch and Unwatch. A kick that was forgotten since is nobody's.
        NetQueueCounters?[] watched = Volatile.Read(ref _watched);
        foreach (ulong slot in signalled)
        {
            if ((int)slot < watched.Length && watched[(int)slot] is { } counters)
            {
                counters.Kicks++;
                Kicks++;
            }
        }
    }
}
