using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.VhostUser;

/// <summary>The rings of one session: what was said about each, and which of them the device uses. A ring runs once everything
/// that it needs was said, in whatever order; what changes under it stops it first and starts it again.</summary>
internal sealed class VringTable : IDisposable
{
    private readonly Vring[] _rings;
    private readonly IVhostUserDevice _device;
    private readonly SessionIotlb _iotlb;
    private readonly RingPlacement _placement;
    private readonly RingRecords _records;
    private readonly Action<string> _log;
    private bool _mustSettle;
    private bool _mustRestart;

    public VringTable(IVhostUserDevice device, SessionIotlb iotlb, PeerMappings mappings, Action<string> log)
    {
        _device = device;
        _iotlb = iotlb;
        _placement = new RingPlacement(iotlb, mappings, log);
        _records = new RingRecords(mappings, log);
        _log = log;
        _rings = [.. Enumerable.Range(0, device.RingCount).Select(i => new Vring(i))];
    }

    public VirtioFeatures Features { get; private set; }

    /// <summary>Changed only inside <see cref="WhileStopped"/>.</summary>
    public GuestMemory Memory { get; set; } = GuestMemory.Empty;

    /// <summary>Changed only inside <see cref="WhileStopped"/>.</summary>
    public BackendChannel? BackendChannel { get; set; }

    public bool HasInbandNotifications { get; set; }

    /// <summary>How pollers take the front-end's answers. Set once.</summary>
    public required IIotlbAnswers Answers { get; init; }

    /// <summary>Whether a ring would run if its parts were mapped.</summary>
    public bool IsAnyWaiting => Array.Exists(_rings, r => r.IsWaitingForTranslation);

    private bool IsPacked => Features.HasFlag(VirtioFeatures.RingPacked);

    public void SetFeatures(VirtioFeatures features)
    {
        if (features != VirtioFeatures.None && !features.HasFlag(VirtioFeatures.Version1))
        {
            _log("the front-end did not accept VIRTIO_F_VERSION_1, without which no ring is served");
        }

        WhileStopped(() => Features = features);
    }

    public void SetLog(FileDescriptor file, LogDescription description) => WhileStopped(() => _records.SetLog(file, description));

    /// <summary>Takes what is signalled when something was logged.</summary>
    public void SetLogSignal(EventFd signal)
    {
        bool isTaken = false;
        try
        {
            WhileStopped(() =>
            {
                _records.SetLogSignal(signal);
                isTaken = true;
            });
        }
        catch when (!isTaken)
        {
            signal.Dispose();
            throw;
        }
    }

    /// <summary>Makes a buffer for what is in flight; it is used once the front-end has given it back.</summary>
    public FileDescriptor CreateInflight(ref InflightDescription description) =>
        InflightBuffer.Create(ref description, IsPacked, _rings.Length);

    public void SetInflight(FileDescriptor file, InflightDescription description) =>
        WhileStopped(() => _records.SetInflight(file, description, IsPacked));

    public void SetSize(VringState state)
    {
        Vring ring = Stopped(state.Index, "SetVringNum");
        // A packed ring's size need not be a power of two; which layout it is may be said later, and is checked at the start.
        if (state.Number is 0 or > RingAddresses.MaxSize)
        {
            throw new VhostUserProtocolException($"ring {state.Index} cannot have {state.Number} entries");
        }

        ring.Size = (int)state.Number;
        TryStart(ring);
    }

    public void SetAddresses(VringAddresses addresses)
    {
        Vring ring = At(addresses.Index);
        Pause(ring);
        ring.Addresses = addresses;
        TryStart(ring);
    }

    public void SetBase(VringState state)
    {
        Vring ring = Stopped(state.Index, "SetVringBase");
        // Buffers between the two sides are in flight; without a record of them there are none, as this back-end uses buffers in
        // order, so the used side stands where the available side does.
        ushort avail = (ushort)(state.Number & 0xFFFF);
        ring.Position = new RingPosition(avail, avail);
    }

    /// <summary>Stops a ring and says where.</summary>
    public uint GetBase(uint index)
    {
        Vring ring = At(index);
        Pause(ring);
        // vhost-user specification, "Ring states": it starts again at the next kick, which needs a new eventfd or message.
        ring.IsStarted = false;
        ring.SetKick(null);
        ring.SetCall(null);
        if (!_rings.Any(r => r.IsStarted))
        {
            // The driver goes, or the machine is paused. Another one's buffers lie elsewhere: what is left would only fill the table, and
            // the same one's are told again when they are asked for.
            _iotlb.Table.Clear();
        }

        // For a packed ring the used side stands in the upper half: QEMU reads it there.
        return IsPacked ? ring.Position.Avail | ((uint)ring.Position.Used << 16) : ring.Position.Avail;
    }

    public void SetEnabled(VringState state)
    {
        Vring ring = At(state.Index);
        if (state.Number > 1)
        {
            throw new VhostUserProtocolException($"ring {state.Index} can be enabled with 1 or disabled with 0, not {state.Number}");
        }

        if (ring.IsEnabled != (state.Number == 1))
        {
            Pause(ring);
            ring.IsEnabled = state.Number == 1;
        }

        TryStart(ring);
    }

    public void SetDescriptor(FrontendRequest request, int index, EventFd? descriptor)
    {
        Vring ring;
        try
        {
            ring = At((uint)index);
            Pause(ring);
        }
        catch
        {
            descriptor?.Dispose();
            throw;
        }

        switch (request)
        {
            case FrontendRequest.SetVringKick:
                ring.SetKick(descriptor);
                ring.IsStarted = true;
                break;
            case FrontendRequest.SetVringCall:
                ring.SetCall(descriptor);
                break;
            default:
                ring.SetError(descriptor);
                break;
        }

        TryStart(ring);
    }

    public void KickInBand(VringState state)
    {
        Vring ring = At(state.Index);
        ring.IsStarted = true;
        TryStart(ring);
        if (ring.IsRunning)
        {
            _device.KickRing(ring.Index);
        }
    }

    /// <summary>Takes a translation in, and starts rings that waited for it.</summary>
    public void UpdateTranslation(in IotlbMessage message)
    {
        IotlbSnapshot before = _iotlb.Table.Snapshot;
        _iotlb.Update(message, Memory);
        if (before.Generation != _iotlb.Table.Snapshot.Generation)
        {
            // It contradicted what was known: what a batch still uses, or where a running ring lies.
            _mustSettle = true;
            IovaRange range = SessionIotlb.RangeOf(message);
            foreach (Vring ring in _rings)
            {
                if (ring.IsRunning && IsIn(ring, range))
                {
                    Pause(ring);
                    TryRestart(ring);
                }
            }
        }

        RestartWaiting();
    }

    /// <summary>Starts rings whose parts are mapped by now, and asks for the others' again when that is due.</summary>
    public void RestartWaiting()
    {
        foreach (Vring ring in _rings)
        {
            if (ring.IsWaitingForTranslation)
            {
                TryRestart(ring);
            }
        }
    }

    /// <summary>Whether a change there concerns no ring itself, only buffers.</summary>
    public bool IsOutsideRings(IovaRange range)
    {
        // Asked for each message: without a closure.
        foreach (Vring ring in _rings)
        {
            if (ring.IsWaitingForTranslation || (ring.IsRunning && IsIn(ring, range)))
            {
                return false;
            }
        }

        return true;
    }

    /// <summary>Forgets translations; rings that lie there stand still. Others may use them until <see cref="SettleInvalidations"/>.</summary>
    public void InvalidateTranslation(IovaRange range)
    {
        _mustSettle = true;
        foreach (Vring ring in _rings)
        {
            if (ring.IsRunning && IsIn(ring, range))
            {
                Pause(ring);
                _mustRestart = true;
            }
        }

        _iotlb.Table.Invalidate(range);
    }

    /// <summary>When this returns nobody uses what was invalidated.</summary>
    public void SettleInvalidations()
    {
        if (!_mustSettle)
        {
            return;
        }

        _device.AwaitQuiescence();
        if (_mustRestart)
        {
            _mustRestart = false;
            foreach (Vring ring in _rings)
            {
                // Asks for its parts again, and waits for them.
                TryRestart(ring);
            }
        }

        _mustSettle = false;
    }

    public void DisableAll()
    {
        foreach (Vring ring in _rings)
        {
            Pause(ring);
            ring.IsEnabled = false;
            TryStart(ring);
        }
    }

    /// <summary>Back to the state before any ring was described.</summary>
    public void Reset()
    {
        StopAll();
        foreach (Vring ring in _rings)
        {
            ring.Reset();
        }

        Features = VirtioFeatures.None;
        _iotlb.Table.Clear();
    }

    /// <summary>Changes something that running rings depend on.</summary>
    public void WhileStopped(Action change)
    {
        foreach (Vring ring in _rings)
        {
            Pause(ring);
        }

        try
        {
            change();
        }
        finally
        {
            foreach (Vring ring in _rings)
            {
                TryRestart(ring);
            }
        }
    }

    public void StopAll()
    {
        foreach (Vring ring in _rings)
        {
            Pause(ring);
            ring.IsStarted = false;
        }
    }

    public void Dispose()
    {
        StopAll();
        foreach (Vring ring in _rings)
        {
            ring.Dispose();
        }

        _records.Dispose();
    }

    private Vring At(uint index) => index < _rings.Length
        ? _rings[index]
        : throw new VhostUserProtocolException($"there is no ring {index}; the device has {_rings.Length}");

    private Vring Stopped(uint index, string request)
    {
        Vring ring = At(index);
        return ring.IsRunning
            ? throw new VhostUserProtocolException($"{request} came for ring {index}, which runs")
            : ring;
    }

    private void Pause(Vring ring)
    {
        if (ring.IsRunning)
        {
            ring.Position = _device.StopRing(ring.Index);
            ring.IsRunning = false;
        }

        Forget(ring);
    }

    // Nothing of a place where a ring does not run stays, tried or left.
    private void Forget(Vring ring)
    {
        ring.IsWaitingForTranslation = false;
        ring.Iotlb?.Dispose();
        ring.Iotlb = null;
        ring.ForgetViews();
        _iotlb.Table.Release(ring);
    }

    private void TryRestart(Vring ring)
    {
        try
        {
            TryStart(ring);
        }
        catch (Exception e) when (e is VhostUserProtocolException or LinuxException)
        {
            // Memory is taken away before rings are when a guest goes down, and others may have used up descriptors: no reason to end the
            // session, or to leave the other rings as they are.
            _log($"ring {ring.Index} stays stopped: {e.Message}");
        }
    }

    private void TryStart(Vring ring)
    {
        if (ring.IsRunning || !ring.IsStarted || ring.Size == 0 || ring.Addresses is not { } addresses
            || Memory.Regions.Count == 0 || !Features.HasFlag(VirtioFeatures.Version1))
        {
            return;
        }

        try
        {
            if (_placement.TryPlace(ring, addresses, Features, Memory) is not { } place)
            {
                return;
            }

            ring.Position = _records.Resume(ring, place.Addresses, IsPacked, out InflightRecord? inflight);
            _device.StartRing(Configuration(ring, addresses, place, inflight));
            ring.IsRunning = true;
        }
        catch
        {
            // It may be tried again and again.
            Forget(ring);
            throw;
        }
    }

    private VringConfiguration Configuration(Vring ring, VringAddresses addresses, RingPlace place, InflightRecord? inflight)
    {
        bool isTranslated = Features.HasFlag(VirtioFeatures.AccessPlatform);
        bool logs = _records.Log is not null && Features.HasFlag(VhostFeatures.LogAll);
        return new VringConfiguration
        {
            Index = ring.Index,
            Size = ring.Size,
            Features = Features,
            Addresses = place.Addresses,
            Memory = Memory,
            Iotlb = ring.Iotlb = isTranslated ? _iotlb.View(Answers) : null,
            Position = ring.Position,
            // "If VHOST_USER_F_PROTOCOL_FEATURES has not been negotiated, the ring starts directly in the enabled state."
            Enabled = ring.IsEnabled || !Features.HasFlag(VhostFeatures.ProtocolFeatures),
            Kick = ring.Kick,
            MustPoll = ring.Kick is null && !HasInbandNotifications,
            Call = Signal(ring, ring.Call, BackendRequest.VringCall),
            Error = Signal(ring, ring.Error, BackendRequest.VringErr),
            Inflight = inflight,
            Log = logs ? _records.Log : null,
            LogSignal = logs ? _records.LogSignal : null,
            LoggedAreas = logs && (addresses.Flags & VringAddresses.FlagLog) != 0 ? place.LoggedAreas(addresses.Log, Memory) : [],
        };
    }

    // "It may however still be used to set an event file descriptor (which will be preferred over the message)."
    private VringCall? Signal(Vring ring, EventFd? descriptor, BackendRequest request) =>
        descriptor is not null ? new EventFdCall(descriptor)
            : HasInbandNotifications && BackendChannel is { } channel ? new InbandCall(channel, request, ring.Index) : null;

    private static bool IsIn(Vring ring, IovaRange range)
    {
        foreach (IovaRange part in ring.Parts)
        {
            if (part.Overlaps(range))
            {
                return true;
            }
        }

        return false;
    }
}
