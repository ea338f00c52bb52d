using System.Diagnostics;
using Vfio.Linux;

namespace Vfio.VhostUser;

/// <summary>Whose turn it is to take messages from a session's socket. It is the turn of the session's own thread, which sleeps until
/// some come, except while a poller waits for translations: then the poller takes the front-end's answers and revocations itself,
/// between two of its batches, and nobody has to be woken for them. Whether it then keeps the turn for the revocation that may follow is
/// a matter of trial (<see cref="TurnTrial"/>).</summary>
/// <remarks>A poller does not wait for its turn: when it is not, it does other work. In its turn it waits for the other pollers where
/// something was taken away, as the session's thread would. What is not for it to decide it leaves to the
/// session's thread, which takes the turn back whenever it runs.</remarks>
internal sealed class SessionTurn : IIotlbAnswers, IDisposable
{
    // How long after the last question or message a poller goes on looking, each time a system call that mostly finds nothing.
    private static readonly long Attention = Stopwatch.Frequency / 5000;

    /// <summary>How long the session's thread sleeps at most where pollers may have the turn: one whose ring was taken away in the middle
    /// of it does not give it back.</summary>
    public static readonly TimeSpan PollersLongest = TimeSpan.FromMilliseconds(200);

    private readonly Lock _turn = new();
    private readonly EventWaiter _waiter = new();
    // Never read: each signal is an edge, and wakes (epoll(7)).
    private readonly EventFd _wake = new();
    private readonly FileDescriptor _socket;
    private readonly PollersShare _take;
    private bool _isPollers;
    private bool _isOnLast;
    private long _answeredIn = -1;
    private bool _isOver;
    private long _last;
    private TurnTrial _trial;

    /// <summary>It is the turn of the session's thread.</summary>
    /// <param name="socket">The session's socket.</param>
    /// <param name="take">Takes what a poller may take.</param>
    /// <exception cref="LinuxException">There are no more descriptors.</exception>
    public SessionTurn(FileDescriptor socket, PollersShare take)
    {
        _socket = socket;
        _take = take;
        try
        {
            _waiter.Add(_wake.Descriptor, 0);
            _waiter.AddReadable(socket, 0);
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>Takes messages on a poller's thread, without waiting.</summary>
    /// <param name="left">Whether something is left that only the session's thread can do.</param>
    /// <param name="areAll">Whether the last answer that was waited for was among them.</param>
    /// <returns>How many were taken.</returns>
    public delegate int PollersShare(out bool left, out bool areAll);

    /// <inheritdoc/>
    // ORDER: a hint; Take looks again in its turn.
    public bool AreAwaited => Volatile.Read(ref _isPollers);

    /// <summary>For the session's thread: sleeps until there may be something to do.</summary>
    /// <param name="timeout">How long at most.</param>
    public void Sleep(TimeSpan timeout)
    {
        Span<ulong> any = stackalloc ulong[1];
        _waiter.Wait(timeout, any);
    }

    /// <summary>For the session's thread: takes the turn, also back from a poller. End it with <see cref="End"/>.</summary>
    public void Begin()
    {
        _turn.Enter();
        GiveBack();
    }

    /// <summary>Ends what <see cref="Begin"/> began.</summary>
    /// <param name="goesOn">False: no poller has a turn from now on.</param>
    public void End(bool goesOn)
    {
        _isOver = !goesOn;
        _turn.Exit();
    }

    /// <inheritdoc/>
    public void Await()
    {
        if (!_turn.TryEnter())
        {
            return;
        }

        try
        {
            _isOnLast = false;
            _last = Stopwatch.GetTimestamp();
            if (!_isOver && !_isPollers)
            {
                _waiter.Pause(_socket);
                // ORDER: as for AreAwaited.
                Volatile.Write(ref _isPollers, true);
            }
        }
        finally
        {
            _turn.Exit();
        }
    }

    /// <inheritdoc/>
    public bool Take(long round)
    {
        if (!_turn.TryEnter())
        {
            return false;
        }

        try
        {
            // Each of a poller's queues comes here. The batch that waits for the answers is in the next round; another poller, whose
            // rounds have other numbers, may come first, which only costs that batch the time of a system call.
            if (!_isPollers || round == _answeredIn)
            {
                return false;
            }

            if (_isOnLast)
            {
                GiveBack();
                return false;
            }

            int taken = _take(out bool left, out bool areAll);
            long now = Stopwatch.GetTimestamp();
            _last = taken != 0 ? now : _last;
            if (areAll)
            {
                _answeredIn = round;
                _trial.Count(now);
                // The guest waits for the batch that follows, and only then has something to revoke.
                _isOnLast = !_trial.IsKept;
            }

            if (left || now - _last > Attention)
            {
                GiveBack();
            }

            if (left)
            {
                // It may have been received already, and the socket be silent.
                _wake.Signal();
            }

            return taken != 0;
        }
        finally
        {
            _turn.Exit();
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _waiter.Dispose();
        _wake.Dispose();
    }

    private void GiveBack()
    {
        if (_isPollers)
        {
            // ORDER: as for AreAwaited.
            Volatile.Write(ref _isPollers, false);
            // What came meanwhile wakes the session's thread now.
            _waiter.Resume(_socket, 0);
        }
    }
}
