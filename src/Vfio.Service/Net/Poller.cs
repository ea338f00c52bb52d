using System.Diagnostics;
using Vfio.Linux;

namespace Vfio.Service;

/// <summary>A thread on a processor of its own that does <see cref="IPollable"/> work: it spins while there is some, and sleeps
/// when there was none for a while.</summary>
/// <remarks>Members are thread-safe, and not for the poller's own thread.</remarks>
public sealed class Poller : IDisposable
{
    // Waking a sleeper costs a driver a system call and the poller about 50 us: worth a few hundred microseconds of spinning.
    private static readonly long SpinTicks = Stopwatch.Frequency / 2000;

    private readonly GracePeriod _grace;
    private readonly GracePeriodReader _reader;
    private readonly Thread _thread;
    private readonly EventFd _wake = new();
    private readonly Lock _change = new();
    private IPollable[] _work = [];
    private bool _stop;

    /// <summary>Starts the thread.</summary>
    /// <param name="name">Its name, and how it is called in messages.</param>
    /// <param name="processor">The processor that it stays on; null leaves it to the scheduler.</param>
    /// <param name="grace">What takes things away from it.</param>
    /// <exception cref="LinuxException">The thread may not run on that processor.</exception>
    public Poller(string name, Processor? processor, GracePeriod grace)
    {
        ArgumentNullException.ThrowIfNull(grace);
        _grace = grace;
        _reader = grace.Register(name);
        Events.Add(_wake.Descriptor);
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

    /// <summary>What wakes it beside <see cref="Wake"/>: kicks.</summary>
    public EventWaiter Events { get; } = new();

    /// <summary>Times that a kick woke it.</summary>
    public long Kicks { get; private set; }

    /// <summary>Rounds over all its work.</summary>
    public long Rounds { get; private set; }

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

    /// <summary>Takes work away. When this returns the thread does not touch it.</summary>
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
        Events.Dispose();
        _wake.Dispose();
    }

    private void Run()
    {
        _reader.Unpark();
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

        _reader.Park();
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
            any |= item.PollOnce();
            parks |= item.HasWorkWhileParked;
        }

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
            any |= item.WorkWhileParked();
        }

        _reader.Unpark();
        return any;
    }

    private void Sleep()
    {
        bool mustStay = false;
        IPollable[] work = Volatile.Read(ref _work);
        foreach (IPollable item in work)
        {
            mustStay |= item.EnableNotifications();
        }

        if (!mustStay)
        {
            _reader.Park();
            Kicks += Events.Wait(NetEngine.LongestSleep);
            _reader.Unpark();
            work = Volatile.Read(ref _work);
        }

        foreach (IPollable item in work)
        {
            item.DisableNotifications();
        }

        _reader.Quiesce();
    }
}
