using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.VhostUser;

/// <summary>What is written down about a session's rings in memory of the front-end's: the guest's pages that were written, for a migration, and the
/// buffers in flight, for a back-end that comes after this one.</summary>
/// <remarks>Changed only while no ring runs.</remarks>
internal sealed class RingRecords(PeerMappings mappings, Action<string> log) : IDisposable
{
    private EventFd? _logSignal;
    private InflightBuffer? _inflight;

    /// <summary>The dirty log, or null.</summary>
    public DirtyLog? Log { get; private set; }

    /// <summary>Told when something was logged, or null.</summary>
    public VringCall? LogSignal => _logSignal is { } signal ? new EventFdCall(signal) : null;

    public void SetLog(FileDescriptor file, LogDescription description)
    {
        var next = DirtyLog.Map(file, new FileOffset(description.Offset), description.Size, mappings);
        EndLog();
        Log = next;
    }

    public void SetLogSignal(EventFd signal)
    {
        _logSignal?.Dispose();
        _logSignal = signal;
    }

    public void SetInflight(FileDescriptor file, InflightDescription description, bool isPacked)
    {
        InflightBuffer? former = _inflight;
        _inflight = InflightBuffer.Map(file, description, isPacked, mappings);
        former?.Dispose();
    }

    /// <summary>Where a ring goes on that is about to start.</summary>
    /// <param name="ring">The ring.</param>
    /// <param name="resolved">Where it lies.</param>
    /// <param name="isPacked">Its layout.</param>
    /// <param name="inflight">The record of what is in flight on it, where the front-end keeps one.</param>
    /// <exception cref="VhostUserProtocolException">There is no such place in it.</exception>
    public RingPosition Resume(Vring ring, RingAddresses resolved, bool isPacked, out InflightRecord? inflight)
    {
        inflight = _inflight?.RecordFor(ring.Index, ring.Size, isPacked);
        if (isPacked)
        {
            int slot = Math.Max(ring.Position.Avail & 0x7FFF, ring.Position.Used & 0x7FFF);
            if (slot >= ring.Size)
            {
                throw new VhostUserProtocolException($"ring {ring.Index} cannot start at slot {slot} of {ring.Size}");
            }
        }

        if (inflight is not null)
        {
            RingPosition recovered = inflight.Recover(resolved, ring.Position, out string? doubt);
            if (doubt is not null)
            {
                log($"ring {ring.Index}: the record of what was in flight is not believed: {doubt}");
            }

            return recovered;
        }

        if (isPacked)
        {
            return ring.Position;
        }

        // A split ring itself says what was used. After a crash of an earlier back-end the front-end may not know, and this one uses
        // buffers in order: all before the used index are done, all after it are to be done. Some of these it had done and not shown
        // yet: they are done twice, and none is lost.
        ushort used = resolved.ReadUsedIndex();
        if (used != ring.Position.Avail)
        {
            log($"ring {ring.Index} goes on at its used index {used}, not at {ring.Position.Avail} as the front-end says");
        }

        return new RingPosition(used, used);
    }

    public void Dispose()
    {
        EndLog();
        _logSignal?.Dispose();
        _inflight?.Dispose();
    }

    private void EndLog()
    {
        if (Log is { Outside: not 0 } ended)
        {
            log($"the dirty log was too small for {ended.Outside} writes, which are not in it: what was migrated by it is not whole. Cure: a "
                + "log for all guest physical addresses");
        }

        Log?.Dispose();
        Log = null;
    }
}
