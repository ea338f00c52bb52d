using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.VhostUser;

/// <summary>What each request of a front-end does: to the rings, the memory, the translations and the channel back.</summary>
/// <remarks>For the thread that takes the message. What was asked before has been acknowledged, except translations.</remarks>
internal sealed class SessionRequests(
    MessageChannel channel, IVhostUserDevice device, MemoryTable memory, SessionIotlb iotlb, VringTable rings, Action<string> log)
    : IDisposable
{
    private const ProtocolFeatures Known = ProtocolFeatures.Mq | ProtocolFeatures.LogShmfd | ProtocolFeatures.ReplyAck
        | ProtocolFeatures.NetMtu | ProtocolFeatures.InflightShmfd | ProtocolFeatures.BackendReq | ProtocolFeatures.Config | ProtocolFeatures.ResetDevice
        | ProtocolFeatures.InbandNotifications | ProtocolFeatures.ConfigureMemSlots | ProtocolFeatures.Status;

    private BackendChannel? _backendChannel;
    private ulong _status;

    /// <summary>The protocol features that were negotiated.</summary>
    public ProtocolFeatures ProtocolFeatures { get; private set; }

    private ProtocolFeatures OfferedProtocolFeatures => Known & device.ProtocolFeatures;

    private VirtioFeatures OfferedFeatures => device.Features | VhostFeatures.ProtocolFeatures;

    public void Dispose() => _backendChannel?.Dispose();

    /// <summary>Checks what the message says of itself: that it is known, and its size, descriptors and features.</summary>
    /// <param name="header">Its header.</param>
    /// <param name="request">Its request.</param>
    /// <returns>What is right for such a message.</returns>
    /// <exception cref="VhostUserProtocolException">It is not right.</exception>
    public MessageRule Check(MessageHeader header, FrontendRequest request)
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

        int descriptors = channel.Descriptors.Count;
        if (descriptors < rule.MinDescriptors || descriptors > rule.MaxDescriptors)
        {
            throw new VhostUserProtocolException(
                $"{request} came with {descriptors} descriptors; {rule.MinDescriptors} to {rule.MaxDescriptors} are right");
        }

        return (ProtocolFeatures & rule.Needs) == rule.Needs
            ? rule
            : throw new VhostUserProtocolException($"{request} came without {rule.Needs & ~ProtocolFeatures} having been negotiated");
    }

    /// <summary>Does what a request that was checked asks for, and sends its reply where it has one of its own.</summary>
    /// <param name="request">The request.</param>
    /// <exception cref="VhostUserProtocolException">It cannot be granted.</exception>
    /// <exception cref="LinuxException">As before, for a reason of this machine.</exception>
    public void Apply(FrontendRequest request)
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
                rings.DisableAll();
                break;
            case FrontendRequest.SetMemTable:
                SetMemoryTable();
                break;
            case FrontendRequest.AddMemReg:
                ChangeMemory(memory.PrepareWith(memory.Prepare([Payload<SingleRegion>().Region], channel.Descriptors)));
                break;
            case FrontendRequest.RemMemReg:
                ChangeMemory(memory.PrepareWithout(Payload<SingleRegion>().Region));
                break;
            case FrontendRequest.GetMaxMemSlots:
                Reply((ulong)MemoryTable.MaxSlots);
                break;
            case FrontendRequest.SetLogBase:
                SetLogBase(Payload<LogDescription>());
                break;
            case FrontendRequest.SetLogFd:
                rings.SetLogSignal(TakeEventFd(0));
                break;
            case FrontendRequest.SetVringKick:
            case FrontendRequest.SetVringCall:
            case FrontendRequest.SetVringErr:
                SetVringDescriptor(request, Payload<ulong>());
                break;
            case FrontendRequest.GetVringBase:
                VringState asked = Payload<VringState>();
                Reply(new VringState { Index = asked.Index, Number = rings.GetBase(asked.Index) });
                break;
            case FrontendRequest.GetQueueNum:
                Reply((ulong)device.QueueNumber);
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
                rings.Reset();
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
                rings.SetSize(Payload<VringState>());
                break;
            case FrontendRequest.SetVringAddr:
                rings.SetAddresses(Payload<VringAddresses>());
                break;
            case FrontendRequest.SetVringBase:
                rings.SetBase(Payload<VringState>());
                break;
            case FrontendRequest.SetVringEnable:
                rings.SetEnabled(Payload<VringState>());
                break;
            case FrontendRequest.VringKick:
                rings.KickInBand(Payload<VringState>());
                break;
            default:
                throw new VhostUserProtocolException($"{request} is not served by this device");
        }
    }

    // The acknowledgement, where one is wanted, follows when rings and pollers have settled.
    private void ApplyIotlb(in IotlbMessage message)
    {
        if (!rings.Features.HasFlag(VirtioFeatures.AccessPlatform))
        {
            throw new VhostUserProtocolException("IotlbMsg came without VIRTIO_F_ACCESS_PLATFORM having been negotiated");
        }

        switch (message.Type)
        {
            case IotlbMessageType.Update:
                rings.UpdateTranslation(message);
                break;
            case IotlbMessageType.Invalidate:
                rings.InvalidateTranslation(SessionIotlb.RangeOf(message));
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

        rings.SetFeatures(features);
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
        rings.HasInbandNotifications = features.HasFlag(ProtocolFeatures.InbandNotifications);
    }

    private void SetMemoryTable()
    {
        ReadOnlySpan<byte> payload = channel.Payload;
        uint count = MemoryMarshal.Read<MemoryTableHeader>(payload).RegionCount;
        ReadOnlySpan<RegionDescription> regions =
            MemoryMarshal.Cast<byte, RegionDescription>(payload[Unsafe.SizeOf<MemoryTableHeader>()..]);
        // The message may be longer than its regions need, as the front-end's structure has room for all.
        if (count > regions.Length || count != channel.Descriptors.Count)
        {
            throw new VhostUserProtocolException(
                $"SetMemTable announces {count} regions, has room for {regions.Length} and came with {channel.Descriptors.Count} descriptors");
        }

        ChangeMemory(memory.Prepare(regions[..(int)count], channel.Descriptors));
    }

    private void ChangeMemory(GuestMemory next)
    {
        if (next.Regions.Any(r => r.CanShrink) && !memory.Current.Regions.Any(r => r.CanShrink))
        {
            log("the front-end's memory file is not sealed against shrinking: if it shrinks, the session ends");
        }

        rings.WhileStopped(() =>
        {
            if (memory.Current.Regions.Any(r => !next.Regions.Contains(r)))
            {
                // Translations lead into the memory that goes. The front-end tells them again.
                iotlb.Table.Clear();
            }

            memory.Replace(next);
            rings.Memory = next;
        });
    }

    private void SetLogBase(LogDescription description)
    {
        using FileDescriptor file = channel.Descriptors.Take(0);
        rings.SetLog(file, description);
        // An empty body: QEMU expects none, the specification names none.
        Reply(ReadOnlySpan<byte>.Empty);
    }

    private void SetVringDescriptor(FrontendRequest request, ulong payload)
    {
        // Bits 0 to 7: the ring; bit 8: no descriptor, it is polled.
        int index = (int)(payload & 0xFF);
        bool none = (payload & 0x100) != 0;
        if (none != (channel.Descriptors.Count == 0))
        {
            throw new VhostUserProtocolException(
                $"{request} for ring {index} {(none ? "says that it has no" : "should have a")} descriptor, and came with {channel.Descriptors.Count}");
        }

        rings.SetDescriptor(request, index, none ? null : TakeEventFd(0));
    }

    private EventFd TakeEventFd(int index) =>
        EventFd.TryAdopt(channel.Descriptors.Take(index))
            ?? throw new VhostUserProtocolException("a descriptor that should be an eventfd is something else");

    private void SetMtu(ulong mtu)
    {
        if (!device.TrySetMtu(mtu))
        {
            throw new VhostUserProtocolException($"an MTU of {mtu} is not possible here");
        }
    }

    private void SetBackendChannel()
    {
        UnixSocket socket = UnixSocket.TryAdopt(channel.Descriptors.Take(0))
            ?? throw new VhostUserProtocolException("the channel for requests of the back-end is not a stream socket of this machine");
        rings.WhileStopped(() =>
        {
            _backendChannel?.Dispose();
            _backendChannel = new BackendChannel(socket);
            rings.BackendChannel = _backendChannel;
            iotlb.Channel = _backendChannel;
        });
    }

    private void AccessConfig(bool read)
    {
        ConfigHeader header = MemoryMarshal.Read<ConfigHeader>(channel.Payload);
        int body = channel.Payload.Length - Unsafe.SizeOf<ConfigHeader>();
        if (!read)
        {
            throw new VhostUserProtocolException($"configuration space at {header.Offset} cannot be written");
        }

        Span<byte> reply = stackalloc byte[Unsafe.SizeOf<ConfigHeader>() + MessageRule.MaxConfig];
        MemoryMarshal.Write(reply, in header);
        bool found = header.Size == body && header.Offset <= MessageRule.MaxConfig
            && device.TryReadConfig((int)header.Offset, reply.Slice(Unsafe.SizeOf<ConfigHeader>(), body));
        // "Uses zero length of payload to indicate an error."
        Reply(found ? reply[..(Unsafe.SizeOf<ConfigHeader>() + body)] : []);
    }

    private void ExchangeInflight(bool asked)
    {
        // 20 bytes, or 24 with padding: as many go back.
        Span<byte> body = stackalloc byte[Unsafe.SizeOf<InflightDescription>()];
        channel.Payload.CopyTo(body);
        InflightDescription description = MemoryMarshal.Read<InflightDescription>(body);
        if (!asked)
        {
            using FileDescriptor file = channel.Descriptors.Take(0);
            rings.SetInflight(file, description);
            return;
        }

        using FileDescriptor made = rings.CreateInflight(ref description);
        MemoryMarshal.Write(body, in description);
        channel.Send(channel.Header.Request, MessageHeader.Reply, body[..(int)channel.Header.Size], made);
    }

    private T Payload<T>()
        where T : unmanaged => MemoryMarshal.Read<T>(channel.Payload);

    private void Reply<T>(T payload)
        where T : unmanaged => Reply(MemoryMarshal.AsBytes(new ReadOnlySpan<T>(in payload)));

    private void Reply(ReadOnlySpan<byte> payload) => channel.Send(channel.Header.Request, MessageHeader.Reply, payload);
}
