using System.Runtime.CompilerServices;
using System.Runtime.ExceptionServices;
using System.Runtime.InteropServices;
using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.VhostUser;

/// <summary>One connection of a front-end: receives each message, checks it, applies it, answers it. It touches no ring itself.
/// A request that cannot be granted is answered with non-zero where the front-end asked for an answer, and ends the session
/// where it did not: the front-end would go on believing it.</summary>
/// <remarks>One thread runs it. <see cref="Close"/> from any thread ends it.</remarks>
public sealed class VhostUserSession : IDisposable
{
    private const ProtocolFeatures Known = ProtocolFeatures.Mq | ProtocolFeatures.LogShmfd | ProtocolFeatures.ReplyAck
        | ProtocolFeatures.NetMtu | ProtocolFeatures.InflightShmfd | ProtocolFeatures.BackendReq | ProtocolFeatures.Config | ProtocolFeatures.ResetDevice
        | ProtocolFeatures.InbandNotifications | ProtocolFeatures.ConfigureMemSlots | ProtocolFeatures.Status;

    // Acknowledgements that one message to the socket holds.
    private const int MostOwed = 128;

    // Messages that a poller takes before it goes back to its rings.
    private const int PollersMost = 64;

    private readonly MessageChannel _channel;
    private readonly IVhostUserDevice _device;
    private readonly Action<string> _log;
    private readonly PeerMappings _mappings;
    private readonly MemoryTable _memory;
    private readonly SessionIotlb _iotlb;
    private readonly VringTable _rings;
    private readonly SessionTurn _turn;
    private ExceptionDispatchInfo? _failureOfPoller;
    private BackendChannel? _backendChannel;
    private EventFd? _logSignal;
    private ulong _status;
    private bool _mustSettle;
    private int _owed;

    /// <summary>Takes a connection.</summary>
    /// <param name="socket">The connection; owned from now on.</param>
    /// <param name="device">The device to serve it with.</param>
    /// <param name="log">Takes a line for each thing worth one.</param>
    /// <param name="limits">How much the front-end's memory may take; null for <see cref="MappingLimits.Peer"/>.</param>
    /// <exception cref="LinuxException">There are no more descriptors; the socket is closed.</exception>
    public VhostUserSession(UnixSocket socket, IVhostUserDevice device, Action<string> log, MappingLimits? limits = null)
    {
        ArgumentNullException.ThrowIfNull(socket);
        ArgumentNullException.ThrowIfNull(device);
        _channel = new MessageChannel(socket);
        try
        {
            _turn = new SessionTurn(socket.Descriptor, TakeAnswers);
            _mappings = new PeerMappings(socket, limits);
        }
        catch
        {
            _turn?.Dispose();
            _channel.Dispose();
            throw;
        }

        _memory = new MemoryTable(_mappings);
        _device = device;
        _log = log;
        _iotlb = new SessionIotlb(device);
        _rings = new VringTable(device, _iotlb, _mappings, log) { Answers = _turn };
    }

    /// <summary>Messages that were received whole.</summary>
    public long Messages { get; private set; }

    /// <summary>Those of them that a poller took, which waited for a translation.</summary>
    public long MessagesOfPollers { get; private set; }

    /// <summary>Messages that were refused.</summary>
    public long Refused { get; private set; }

    /// <summary>Accesses that found memory gone which the front-end had shared (<see cref="PeerMappings.Losses"/>); the first ends
    /// the session.</summary>
    public long Losses { get; private set; }

    /// <summary>The virtio features that were negotiated.</summary>
    public VirtioFeatures Features => _rings.Features;

    /// <summary>The protocol features that were negotiated.</summary>
    public ProtocolFeatures ProtocolFeatures { get; private set; }

    /// <summary>What the IOTLB did; all zero unless VIRTIO_F_ACCESS_PLATFORM was negotiated.</summary>
    public IotlbCounters Iotlb => _iotlb.Table.Counters;

    private ProtocolFeatures OfferedProtocolFeatures => Known & _device.ProtocolFeatures;

    private VirtioFeatures OfferedFeatures => _device.Features | VhostFeatures.ProtocolFeatures;

    /// <summary>Serves the connection until it ends.</summary>
    /// <exception cref="TimeoutException">A poller is stuck: the guest's memory stays mapped.</exception>
    public void Run()
    {
        while (Serve())
        {
        }

        Losses = _mappings.Losses;
        if (Losses != 0)
        {
            _log($"session ended: memory of the front-end was gone at {Losses} accesses (SIGBUS). Cause: it shrank its memory " +
                "file, or huge pages ran out. Cure: seal the file (QEMU: memory-backend-memfd with seal=on), reserve the pages");
        }
    }

    /// <summary>Ends <see cref="Run"/>.</summary>
    public void Close() => _channel.Socket.Shutdown();

    /// <summary>Gives back memory and descriptors. <see cref="Run"/> has returned.</summary>
    public void Dispose()
    {
        _rings.Dispose();
        _memory.Dispose();
        _backendChannel?.Dispose();
        _logSignal?.Dispose();
        _turn.Dispose();
        _channel.Dispose();
        _mappings.Dispose();
    }

    // One turn. False at the end of the connection.
    private bool Serve()
    {
        // Front-ends do not answer what is not mapped at that moment: rings ask again.
        _turn.Sleep(_rings.IsAnyWaiting ? _iotlb.Table.Questions.Timeout
            : Features.HasFlag(VirtioFeatures.AccessPlatform) ? SessionTurn.PollersLongest : Timeout.InfiniteTimeSpan);
        _turn.Begin();
        bool goesOn = false;
        try
        {
            goesOn = TakeMessages();
        }
        catch (Exception e) when (e is VhostUserProtocolException or LinuxException)
        {
            Refused++;
            _log($"session ended: {e.Message}");
        }
        finally
        {
            _turn.End(goesOn);
            if (!goesOn)
            {
                // No poller is in a turn any more, or will be.
                _rings.StopAll();
            }
        }

        return goesOn;
    }

    private bool TakeMessages()
    {
        _failureOfPoller?.Throw();
        while (_channel.TryBuffer())
        {
            if (!_channel.Receive())
            {
                return false;
            }

            Messages++;
            Dispatch();
        }

        Settle();
        _rings.RestartWaiting();
        return true;
    }

    // On a poller's thread, in its turn and between two of its batches: translations told and revoked, as long as they concern
    // buffers only and are beyond doubt.
    private int TakeAnswers(out bool left)
    {
        int taken = 0;
        left = false;
        try
        {
            while (taken < PollersMost && _owed < MostOwed && _channel.TryBuffer())
            {
                if (!IsForPoller())
                {
                    left = true;
                    break;
                }

                _channel.Receive();
                Messages++;
                MessagesOfPollers++;
                Dispatch();
                taken++;
            }

            left |= !Settle(waits: false);
        }
        catch (Exception e) when (e is not OutOfMemoryException)
        {
            // Whatever it is, it is thrown again where a session's failures are dealt with.
            _failureOfPoller = ExceptionDispatchInfo.Capture(e);
            left = true;
        }

        return taken;
    }

    private bool IsForPoller()
    {
        if (!_channel.HasBuffered || _channel.HasBufferedDescriptors || !Features.HasFlag(VirtioFeatures.AccessPlatform))
        {
            return false;
        }

        MessageHeader header = _channel.NextHeader;
        if (header.Request != (uint)FrontendRequest.IotlbMsg || header.Size != Unsafe.SizeOf<IotlbMessage>()
            || (header.Flags & ~MessageHeader.NeedReply) != MessageHeader.Version)
        {
            return false;
        }

        IotlbMessage message = MemoryMarshal.Read<IotlbMessage>(_channel.NextPayload);
        return SessionIotlb.TryRangeOf(message, out IovaRange range) && _rings.IsOutsideRings(range)
            && (message.Type == IotlbMessageType.Invalidate
                || (message.Type == IotlbMessageType.Update && !SessionIotlb.IsRefused(message, _memory.Current)));
    }

    private void Dispatch()
    {
        MessageHeader header = _channel.Header;
        var request = (FrontendRequest)header.Request;
        bool wantsReply = (header.Flags & MessageHeader.NeedReply) != 0 && ProtocolFeatures.HasFlag(ProtocolFeatures.ReplyAck);
        MessageRule rule = default;
        ulong failed = 0;
        if (request != FrontendRequest.IotlbMsg || _owed == MostOwed)
        {
            Settle();
        }

        try
        {
            rule = Check(header, request);
            Apply(request);
        }
        catch (Exception e) when (e is VhostUserProtocolException or LinuxException && wantsReply && !rule.HasReply)
        {
            Refused++;
            _log($"{request} refused: {e.Message}");
            failed = 1;
        }

        if (request == FrontendRequest.IotlbMsg && failed == 0)
        {
            _owed += wantsReply ? 1 : 0;
        }
        else if (wantsReply && !rule.HasReply)
        {
            Reply(failed);
        }
    }

    // Invalidations come in bursts: pollers are waited for once for all that have been received, and then all are acknowledged.
    // False when they could not be without waiting for room.
    private bool Settle(bool waits = true)
    {
        if (_mustSettle)
        {
            _rings.SettleInvalidations();
            _mustSettle = false;
        }

        if (_owed != 0)
        {
            Span<ulong> done = stackalloc ulong[MostOwed];
            done.Clear();
            done = done[.._owed];
            if (!waits)
            {
                if (!_channel.TrySendAll<ulong>((uint)FrontendRequest.IotlbMsg, MessageHeader.Reply, done))
                {
                    return false;
                }
            }
            else
            {
                _channel.SendAll<ulong>((uint)FrontendRequest.IotlbMsg, MessageHeader.Reply, done);
            }

            _owed = 0;
        }

        return true;
    }

    private MessageRule Check(MessageHeader header, FrontendRequest request)
    {
        if (!MessageRule.TryGet(request, out MessageRule rule))
        {
            throw new VhostUserProtocolException($"request {header.Request} is not known here");
        }

        if ((header.Flags & MessageHeader.Reply) != 0)
        {
            throw new VhostUserProtocolException($"{request} is marked as a reply");
        }

        if (header.Size < rule.MinPayload || header.Size > rule.MaxPayload)
        {
            throw new VhostUserProtocolException(
                $"{request} has {header.Size} bytes of payload; {rule.MinPayload} to {rule.MaxPayload} are right");
        }

        int descriptors = _channel.Descriptors.Count;
        if (descriptors < rule.MinDescriptors || descriptors > rule.MaxDescriptors)
        {
            throw new VhostUserProtocolException(
                $"{request} came with {descriptors} descriptors; {rule.MinDescriptors} to {rule.MaxDescriptors} are right");
        }

        return (ProtocolFeatures & rule.Needs) == rule.Needs
            ? rule
            : throw new VhostUserProtocolException($"{request} came without {rule.Needs & ~ProtocolFeatures} having been negotiated");
    }

    private void Apply(FrontendRequest request)
    {
        switch (request)
        {
            case FrontendRequest.GetFeatures:
                Reply((ulong)OfferedFeatures);
                break;
            case FrontendRequest.SetFeatures:
                SetFeatures((VirtioFeatures)Payload<ulong>());
                break;
            case FrontendRequest.GetProtocolFeatures:
                Reply((ulong)OfferedProtocolFeatures);
                break;
            case FrontendRequest.SetProtocolFeatures:
                SetProtocolFeatures(Payload<ulong>());
                break;
            case FrontendRequest.SetOwner:
                break;
            case FrontendRequest.ResetOwner:
                _rings.DisableAll();
                break;
            case FrontendRequest.SetMemTable:
                SetMemoryTable();
                break;
            case FrontendRequest.AddMemReg:
                ChangeMemory(_memory.PrepareWith(_memory.Prepare([Payload<SingleRegion>().Region], _channel.Descriptors)));
                break;
            case FrontendRequest.RemMemReg:
                ChangeMemory(_memory.PrepareWithout(Payload<SingleRegion>().Region));
                break;
            case FrontendRequest.GetMaxMemSlots:
                Reply((ulong)MemoryTable.MaxSlots);
                break;
            case FrontendRequest.SetLogBase:
                SetLogBase(Payload<LogDescription>());
                break;
            case FrontendRequest.SetLogFd:
                _logSignal?.Dispose();
                _logSignal = TakeEventFd(0);
                break;
            case FrontendRequest.SetVringKick:
            case FrontendRequest.SetVringCall:
            case FrontendRequest.SetVringErr:
                SetVringDescriptor(request, Payload<ulong>());
                break;
            case FrontendRequest.GetVringBase:
                VringState asked = Payload<VringState>();
                Reply(new VringState { Index = asked.Index, Number = _rings.GetBase(asked.Index) });
                break;
            case FrontendRequest.GetQueueNum:
                Reply((ulong)_device.QueueNumber);
                break;
            case FrontendRequest.NetSetMtu:
                SetMtu(Payload<ulong>());
                break;
            case FrontendRequest.SetBackendReqFd:
                SetBackendChannel();
                break;
            case FrontendRequest.GetConfig:
            case FrontendRequest.SetConfig:
                AccessConfig(request == FrontendRequest.GetConfig);
                break;
            case FrontendRequest.IotlbMsg:
                ApplyIotlb(Payload<IotlbMessage>());
                break;
            case FrontendRequest.ResetDevice:
                _rings.Reset();
                _status = 0;
                break;
            case FrontendRequest.SetStatus:
                _status = Payload<ulong>();
                break;
            case FrontendRequest.GetStatus:
                Reply(_status);
                break;
            default:
                ApplyToRing(request);
                break;
        }
    }

    private void ApplyToRing(FrontendRequest request)
    {
        switch (request)
        {
            case FrontendRequest.GetInflightFd:
            case FrontendRequest.SetInflightFd:
                ExchangeInflight(request == FrontendRequest.GetInflightFd);
                break;
            case FrontendRequest.SetVringNum:
                _rings.SetSize(Payload<VringState>());
                break;
            case FrontendRequest.SetVringAddr:
                _rings.SetAddresses(Payload<VringAddresses>());
                break;
            case FrontendRequest.SetVringBase:
                _rings.SetBase(Payload<VringState>());
                break;
            case FrontendRequest.SetVringEnable:
                _rings.SetEnabled(Payload<VringState>());
                break;
            case FrontendRequest.VringKick:
                _rings.KickInBand(Payload<VringState>());
                break;
            default:
                throw new VhostUserProtocolException($"{request} is not served by this device");
        }
    }

    // The reply, where one is wanted, follows when this returned.
    private void ApplyIotlb(in IotlbMessage message)
    {
        if (!Features.HasFlag(VirtioFeatures.AccessPlatform))
        {
            throw new VhostUserProtocolException("IotlbMsg came without VIRTIO_F_ACCESS_PLATFORM having been negotiated");
        }

        switch (message.Type)
        {
            case IotlbMessageType.Update:
                _rings.UpdateTranslation(message);
                break;
            case IotlbMessageType.Invalidate:
                _rings.InvalidateTranslation(SessionIotlb.RangeOf(message));
                _mustSettle = true;
                break;
            default:
                throw new VhostUserProtocolException($"IotlbMsg of type {(int)message.Type}; update (2) and invalidate (3) are right");
        }
    }

    private void SetFeatures(VirtioFeatures features)
    {
        VirtioFeatures unknown = features & ~OfferedFeatures;
        if (unknown != 0)
        {
            throw new VhostUserProtocolException($"features 0x{(ulong)unknown:x} were chosen and not on offer");
        }

        _rings.SetFeatures(features);
    }

    private void SetProtocolFeatures(ulong bits)
    {
        if ((bits & ~(ulong)OfferedProtocolFeatures) != 0)
        {
            throw new VhostUserProtocolException(
                $"protocol features 0x{bits & ~(ulong)OfferedProtocolFeatures:x} were chosen and not on offer");
        }

        var features = (ProtocolFeatures)bits;
        const ProtocolFeatures ForInband = ProtocolFeatures.BackendReq | ProtocolFeatures.ReplyAck;
        if (features.HasFlag(ProtocolFeatures.InbandNotifications) && (features & ForInband) != ForInband)
        {
            // "In-band notifications": the back-end should close the connection.
            throw new VhostUserProtocolException("in-band notifications need the back-end channel and reply-ack as well");
        }

        ProtocolFeatures = features;
        _rings.HasInbandNotifications = features.HasFlag(ProtocolFeatures.InbandNotifications);
    }

    private void SetMemoryTable()
    {
        ReadOnlySpan<byte> payload = _channel.Payload;
        uint count = MemoryMarshal.Read<MemoryTableHeader>(payload).RegionCount;
        ReadOnlySpan<RegionDescription> regions =
            MemoryMarshal.Cast<byte, RegionDescription>(payload[Unsafe.SizeOf<MemoryTableHeader>()..]);
        // The message may be longer than its regions need, as the front-end's structure has room for all.
        if (count > regions.Length || count != _channel.Descriptors.Count)
        {
            throw new VhostUserProtocolException(
                $"SetMemTable announces {count} regions, has room for {regions.Length} and came with {_channel.Descriptors.Count} descriptors");
        }

        ChangeMemory(_memory.Prepare(regions[..(int)count], _channel.Descriptors));
    }

    private void ChangeMemory(GuestMemory next)
    {
        if (next.Regions.Any(r => r.CanShrink) && !_memory.Current.Regions.Any(r => r.CanShrink))
        {
            _log("the front-end's memory file is not sealed against shrinking: if it shrinks, the session ends");
        }

        _rings.WhileStopped(() =>
        {
            // Translations lead into the memory that goes. The front-end tells them again.
            _iotlb.Table.Clear();
            _memory.Replace(next);
            _rings.Memory = next;
        });
    }

    private void SetLogBase(LogDescription description)
    {
        using FileDescriptor file = _channel.Descriptors.Take(0);
        _rings.SetLog(file, description);
        // An empty body: QEMU expects none, the specification names none.
        Reply(ReadOnlySpan<byte>.Empty);
    }

    private void SetVringDescriptor(FrontendRequest request, ulong payload)
    {
        // Bits 0 to 7: the ring; bit 8: no descriptor, it is polled.
        int index = (int)(payload & 0xFF);
        bool none = (payload & 0x100) != 0;
        if (none != (_channel.Descriptors.Count == 0))
        {
            throw new VhostUserProtocolException(
                $"{request} for ring {index} {(none ? "says that it has no" : "should have a")} descriptor, and came with {_channel.Descriptors.Count}");
        }

        _rings.SetDescriptor(request, index, none ? null : TakeEventFd(0));
    }

    private EventFd TakeEventFd(int index) =>
        EventFd.TryAdopt(_channel.Descriptors.Take(index))
            ?? throw new VhostUserProtocolException("a descriptor that should be an eventfd is something else");

    private void SetMtu(ulong mtu)
    {
        if (!_device.TrySetMtu(mtu))
        {
            throw new VhostUserProtocolException($"an MTU of {mtu} is not possible here");
        }
    }

    private void SetBackendChannel()
    {
        UnixSocket socket = UnixSocket.TryAdopt(_channel.Descriptors.Take(0))
            ?? throw new VhostUserProtocolException("the channel for requests of the back-end is not a stream socket of this machine");
        _rings.WhileStopped(() =>
        {
            _backendChannel?.Dispose();
            _backendChannel = new BackendChannel(socket);
            _rings.BackendChannel = _backendChannel;
            _iotlb.Channel = _backendChannel;
        });
    }

    private void AccessConfig(bool read)
    {
        ConfigHeader header = MemoryMarshal.Read<ConfigHeader>(_channel.Payload);
        int body = _channel.Payload.Length - Unsafe.SizeOf<ConfigHeader>();
        if (!read)
        {
            throw new VhostUserProtocolException($"configuration space at {header.Offset} cannot be written");
        }

        Span<byte> reply = stackalloc byte[Unsafe.SizeOf<ConfigHeader>() + MessageRule.MaxConfig];
        MemoryMarshal.Write(reply, in header);
        bool found = header.Size == body && header.Offset <= MessageRule.MaxConfig
            && _device.TryReadConfig((int)header.Offset, reply.Slice(Unsafe.SizeOf<ConfigHeader>(), body));
        // "Uses zero length of payload to indicate an error."
        Reply(found ? reply[..(Unsafe.SizeOf<ConfigHeader>() + body)] : []);
    }

    private void ExchangeInflight(bool asked)
    {
        // 20 bytes, or 24 with padding: as many go back.
        Span<byte> body = stackalloc byte[Unsafe.SizeOf<InflightDescription>()];
        _channel.Payload.CopyTo(body);
        InflightDescription description = MemoryMarshal.Read<InflightDescription>(body);
        if (!asked)
        {
            using FileDescriptor file = _channel.Descriptors.Take(0);
            _rings.SetInflight(file, description);
            return;
        }

        using FileDescriptor made = _rings.CreateInflight(ref description);
        MemoryMarshal.Write(body, in description);
        _channel.Send(_channel.Header.Request, MessageHeader.Reply, body[..(int)_channel.Header.Size], made);
    }

    private T Payload<T>()
        where T : unmanaged => MemoryMarshal.Read<T>(_channel.Payload);

    private void Reply<T>(T payload)
        where T : unmanaged => Reply(MemoryMarshal.AsBytes(new ReadOnlySpan<T>(in payload)));

    private void Reply(ReadOnlySpan<byte> payload)
    {
        // Answers come in the order of the requests.
        Settle();
        _channel.Send(_channel.Header.Request, MessageHeader.Reply, payload);
    }
}
