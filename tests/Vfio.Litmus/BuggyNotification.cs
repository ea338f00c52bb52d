using System.Runtime.CompilerServices;

namespace Vfio.Litmus;

/// <summary>The control, frozen: an index and an event index, each stored before the other is read, with release and acquire and
/// no fence between. Never mend this.</summary>
internal sealed class BuggyNotification
{
    private readonly StrongBox<PaddedLong> _index = new();
    private readonly StrongBox<PaddedLong> _event = new();
    private long _published;
    private long _reaped;
    private bool _notifies;
    private bool _seesMore;

    public RaceCount Run(TimeSpan time, long enough) =>
        new TwoThreads().Run(
            () => _notifies = Publish(),
            () => _seesMore = EnableNotifications(),
            () =>
            {
                _reaped = _published;
                return !_notifies && !_seesMore;
            },
            time,
            enough);

    private bool Publish()
    {
        _published++;
        Volatile.Write(ref _index.Value.Value, _published);
        return Volatile.Read(ref _event.Value.Value) == _published - 1;
    }

    private bool EnableNotifications()
    {
        long reaped = _reaped;
        Volatile.Write(ref _event.Value.Value, reaped);
        return Volatile.Read(ref _index.Value.Value) != reaped;
    }
}
