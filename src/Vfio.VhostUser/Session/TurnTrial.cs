using System.Diagnostics;

namespace Vfio.VhostUser;

/// <summary>Whether a poller that has all its answers keeps the turn (<see cref="SessionTurn"/>), so that it takes the revocation behind them,
/// or gives it back, so that the session's thread does. A front-end sleeps until a revocation is acknowledged. A poller's word has to
/// wake its processor, which may take longer than all the rest (a virtual one that was halted, a real one in deep sleep); the session's
/// thread may run on just that processor meanwhile, but has to be woken itself. Which is quicker depends on the machine, so both are
/// tried, and the quicker one is used until it is time to try again.</summary>
/// <remarks>For one thread at a time. The default has tried nothing, and keeps the turn.</remarks>
internal struct TurnTrial
{
    /// <summary>Rounds of a trial, a round being from one set of answers to the next.</summary>
    public const int Rounds = 64;

    /// <summary>Rounds for which the quicker one is used.</summary>
    public const int Term = 512 * Rounds;

    /// <summary>Ticks of <see cref="Stopwatch"/> of the longest round that counts: in a longer one the guest had nothing to do.</summary>
    public static readonly long Longest = Stopwatch.Frequency / 1000;

    private bool _isGiven;
    private bool _isTerm;
    private int _rounds;
    private int _longOnes;
    private long _ticks;
    private long _last;
    private long _kept;
    private long _given;

    /// <summary>Whether the turn is kept in this round.</summary>
    public readonly bool IsKept => !_isGiven;

    /// <summary>Ends a round and begins the next.</summary>
    /// <param name="now">The time, in ticks of <see cref="Stopwatch"/>.</param>
    public void Count(long now)
    {
        long round = now - _last;
        _last = now;
        if (round > Longest)
        {
            // Nothing but long ones is no guest that rests: the session's thread does not get its processor.
            if (_isGiven && ++_longOnes == Rounds)
            {
                _given = Longest;
                (_rounds, _ticks, _longOnes) = (0, 0, 0);
                (_isGiven, _isTerm) = (false, true);
            }

            return;
        }

        _longOnes = 0;
        _ticks += round;
        if (++_rounds < (_isTerm ? Term : Rounds))
        {
            return;
        }

        long mean = _ticks / _rounds;
        (_kept, _given) = _isGiven ? (_kept, mean) : (mean, _given);
        (_rounds, _ticks) = (0, 0);
        if (_isTerm || _given == 0)
        {
            // The other one's trial.
            _isGiven = !_isGiven;
            _isTerm = false;
        }
        else
        {
            _isGiven = _given < _kept;
            _isTerm = true;
        }
    }
}
