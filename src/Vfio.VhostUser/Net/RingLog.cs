namespace Vfio.VhostUser;

/// <summary>Logs what one ring's device writes, for migration. Marks are gathered for a batch and set together: neighbouring
/// buffers share words of the log, and often pages.</summary>
internal sealed class RingLog
{
    private const int CacheSize = 32;

    private readonly VringConfiguration _ring;
    private readonly DirtyLog _log;
    private readonly (GuestPhysicalAddress First, GuestPhysicalAddress Last)[] _pending =
        new (GuestPhysicalAddress, GuestPhysicalAddress)[CacheSize];
    private readonly (GuestPhysicalAddress Address, ulong Length)[] _areas;
    private int _count;
    private bool _isNew;

    public RingLog(VringConfiguration ring)
    {
        _ring = ring;
        _log = ring.Log!;
        _areas = [.. ring.LoggedAreas];
    }

    /// <summary>Notes that a piece of guest memory was written.</summary>
    public void Add(HostAddress address, uint length)
    {
        if (length == 0 || !_ring.Memory.TryFind(address, out GuestPhysicalAddress first))
        {
            return;
        }

        GuestPhysicalAddress last = first + (length - 1);
        if (_count != 0)
        {
            ref (GuestPhysicalAddress First, GuestPhysicalAddress Last) previous = ref _pending[_count - 1];
            if (first.Value / DirtyLog.PageSize >= previous.First.Value / DirtyLog.PageSize
                && first.Value / DirtyLog.PageSize <= (previous.Last.Value / DirtyLog.PageSize) + 1)
            {
                previous.Last = last > previous.Last ? last : previous.Last;
                return;
            }
        }

        if (_count == CacheSize)
        {
            Flush();
        }

        _pending[_count++] = (first, last);
    }

    /// <summary>Marks everything noted. All of it was written; the driver has not been told yet.</summary>
    public void Flush()
    {
        for (int i = 0; i < _count; i++)
        {
            _isNew |= _log.Mark(_pending[i].First, _pending[i].Last - _pending[i].First + 1);
        }

        _count = 0;
    }

    /// <summary>Marks the parts of the ring that the device writes, all of them: they are a few pages. The driver was told. Ends a batch:
    /// the front-end is signalled if anything was marked anew.</summary>
    // VHOST_USER_SET_LOG_FD: "Sets the logging file descriptor". The specification says no more; Linux (VHOST_SET_LOG_FD, "signal on log
    // write") and QEMU's library for back-ends signal it. What is marked already the front-end has still to take.
    public void MarkUsed()
    {
        foreach ((GuestPhysicalAddress address, ulong length) in _areas)
        {
            _isNew |= _log.Mark(address, length);
        }

        // One that could not be given now is given with the next batch.
        _isNew = _isNew && _ring.LogSignal is { } signal && !signal.TrySignal();
    }
}
