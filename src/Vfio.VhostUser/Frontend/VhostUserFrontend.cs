using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.VhostUser;

/// <summary>The other side of the protocol, for tests and benchmarks: negotiates, shares memory, sets rings up, answers IOTLB
/// misses and revokes translations.</summary>
/// <remarks>Requests may come from any thread, one at a time; misses are served by one thread of the caller's.</remarks>
public sealed class VhostUserFrontend : IDisposable
{
    // "Bits (0-7) of the payload contain the vring index."
    private const int MostRings = 256;

    private readonly MessageChannel _channel;
    private readonly Lock _requesting = new();
    private readonly MessageChannel? _backend;
    private readonly FrontendIommu? _iommu;
    private readonly Action<IovaRange, FrontendAddress, DmaAccess> _update;
    private readonly bool _acknowledges;

    // Of each ring: calls and errors that came as messages.
    private readonly long[] _calls = new long[MostRings];
    private readonly long[] _errors = new long[MostRings];

    /// <summary>Negotiates with a back-end.</summary>
    /// <param name="socket">The connection; owned from now on.</param>
    /// <param name="wanted">The virtio features that are wanted, as far as they are on offer.</param>
    /// <param name="iommu">What answers IOTLB misses; null for none, and then VIRTIO_F_ACCESS_PLATFORM is not negotiated.</param>
    /// <param name="more">Protocol features that are wanted beside MQ, REPLY_ACK and BACKEND_REQ, as far as they are on offer.</param>
    /// <exception cref="VhostUserProtocolException">The back-end said something impossible.</exception>
    /// <exception cref="LinuxException">The connection broke.</exception>
    public VhostUserFrontend(UnixSocket socket, VirtioFeatures wanted, FrontendIommu? iommu = null, ProtocolFeatures more = ProtocolFeatures.None)
    {
        ArgumentNullException.ThrowIfNull(socket);
        _channel = new MessageChannel(socket);
        _iommu = iommu;
        _update = Update;
        wanted |= iommu is null ? 0 : VirtioFeatures.AccessPlatform;
        Send(FrontendRequest.SetOwner, ReadOnlySpan<byte>.Empty);
        Features = (VirtioFeatures)Ask<ulong>(FrontendRequest.GetFeatures)
            & (wanted | VhostFeatures.ProtocolFeatures | VirtioFeatures.Version1);
        var offered = (ProtocolFeatures)Ask<ulong>(FrontendRequest.GetProtocolFeatures);
        ProtocolFeatures = offered & (ProtocolFeatures.Mq | ProtocolFeatures.ReplyAck | ProtocolFeatures.BackendReq
            | ProtocolFeatures.ConfigureMemSlots | more);
        Send(FrontendRequest.SetProtocolFeatures, (ulong)ProtocolFeatures);
        _acknowledges = ProtocolFeatures.HasFlag(ProtocolFeatures.ReplyAck);
        if (iommu is not null
            && (!Features.HasFlag(VirtioFeatures.AccessPlatform) || !ProtocolFeatures.HasFlag(ProtocolFeatures.BackendReq)))
        {
            throw new VhostUserProtocolException(
                $"the back-end offers no IOTLB: features {Features}, protocol features {ProtocolFeatures}");
        }

        if (iommu is not null || ProtocolFeatures.HasFlag(ProtocolFeatures.InbandNotifications))
        {
            (UnixSocket ours, UnixSocket theirs) = UnixSocket.Pair();
            _backend = new MessageChannel(ours);
            using (theirs)
            {
                Send(FrontendRequest.SetBackendReqFd, ReadOnlySpan<byte>.Empty, theirs.Descriptor);
            }
        }

        Send(FrontendRequest.SetFeatures, (ulong)Features);
    }

    /// <summary>The virtio features that were negotiated.</summary>
    public VirtioFeatures Features { get; private set; }

    /// <summary>The protocol features that were negotiated.</summary>
    public ProtocolFeatures ProtocolFeatures { get; }

    /// <summary>Misses that the back-end asked about.</summary>
    public long Misses { get; private set; }

    /// <summary>Misses that nothing was mapped for.</summary>
    public long Unanswered { get; private set; }

    /// <summary>Access failures that the back-end reported.</summary>
    public long AccessFailures { get; private set; }

    /// <summary>Readable when the back-end asks; null without an IOMMU and without in-band notifications.</summary>
    public FileDescriptor? BackendRequests => _backend?.Socket.Descriptor;

    /// <summary>Whether a question was received already: <see cref="BackendRequests"/> need not be readable for it.</summary>
    public bool HasBufferedRequest => _backend is { HasBuffered: true };

    /// <summary>Shares memory; what was shared before is not any more.</summary>
    /// <param name="regions">The regions, at most 8.</param>
    public void SetMemory(params ReadOnlySpan<FrontendRegion> regions)
    {
        Span<byte> payload = stackalloc byte[Unsafe.SizeOf<MemoryTableHeader>() + (8 * Unsafe.SizeOf<RegionDescription>())];
        payload = payload[..(Unsafe.SizeOf<MemoryTableHeader>() + (regions.Length * Unsafe.SizeOf<RegionDescription>()))];
        var header = new MemoryTableHeader { RegionCount = (uint)regions.Length };
        MemoryMarshal.Write(payload, in header);
        var files = new FileDescriptor[regions.Length];
        for (int i = 0; i < regions.Length; i++)
        {
            RegionDescription region = Describe(regions[i]);
            MemoryMarshal.Write(
                payload[(Unsafe.SizeOf<MemoryTableHeader>() + (i * Unsafe.SizeOf<RegionDescription>()))..], in region);
            files[i] = regions[i].File;
        }

        Send(FrontendRequest.SetMemTable, payload, files);
    }

    /// <summary>Shares a region more.</summary>
    /// <param name="region">The region; the back-end must have CONFIGURE_MEM_SLOTS.</param>
    public void AddMemory(FrontendRegion region)
    {
        ArgumentNullException.ThrowIfNull(region);
        Send(FrontendRequest.AddMemReg, new SingleRegion { Region = Describe(region) }, region.File);
    }

    /// <summary>Takes a region back. When this returns the back-end does not use it.</summary>
    /// <param name="region">The region; the back-end must have CONFIGURE_MEM_SLOTS.</param>
    public void RemoveMemory(FrontendRegion region)
    {
        ArgumentNullException.ThrowIfNull(region);
        Send(FrontendRequest.RemMemReg, new SingleRegion { Region = Describe(region) });
    }

    /// <summary>Lets the back-end make a buffer for what is in flight. It is used once it was given back with <see cref="SetInflight"/>,
    /// before any ring is started, to this back-end and to each that takes over from it.</summary>
    /// <param name="shape">Any of the rings, which are all alike; its index is the last one's.</param>
    /// <returns>The buffer.</returns>
    public FrontendInflight CreateInflight(FrontendRing shape)
    {
        ArgumentNullException.ThrowIfNull(shape);
        var wanted = new InflightDescription { QueueCount = (ushort)(shape.Index + 1), QueueSize = (ushort)shape.Size };
        lock (_requesting)
        {
            _channel.Send((uint)FrontendRequest.GetInflightFd, 0, MemoryMarshal.AsBytes(new ReadOnlySpan<InflightDescription>(in wanted)));
            InflightDescription made = Receive<InflightDescription>(FrontendRequest.GetInflightFd);
            return _channel.Descriptors.Count == 1
                ? new FrontendInflight(_channel.Descriptors.Take(0), made)
                : throw new VhostUserProtocolException("the back-end sent no inflight buffer");
        }
    }

    /// <summary>Gives the back-end the buffer for what is in flight, with what a dead one left in it.</summary>
    /// <param name="buffer">The buffer.</param>
    public void SetInflight(FrontendInflight buffer)
    {
        ArgumentNullException.ThrowIfNull(buffer);
        Send(FrontendRequest.SetInflightFd, buffer.Description, buffer.File);
    }

    /// <summary>Sets a ring up and starts it.</summary>
    /// <param name="ring">The ring.</param>
    public void StartRing(FrontendRing ring)
    {
        ArgumentNullException.ThrowIfNull(ring);
        uint index = (uint)ring.Index;
        Send(FrontendRequest.SetVringNum, new VringState { Index = index, Number = (uint)ring.Size });
        // A packed ring starts with both wrap counters at 1.
        Send(FrontendRequest.SetVringBase, new VringState
        {
            Index = index,
            Number = ring.Position ?? (ring.Features.HasFlag(VirtioFeatures.RingPacked) ? 0x8000_8000 : 0),
        });
        SetAddresses(ring);
        SetDescriptor(FrontendRequest.SetVringCall, index, ring.Call);
        SetDescriptor(FrontendRequest.SetVringErr, index, ring.Error);
        // First: what a ring has that is started and not enabled is dropped.
        Enable(ring.Index, true);
        if (ring.Kick is not null)
        {
            SetDescriptor(FrontendRequest.SetVringKick, index, ring.Kick);
        }
        else
        {
            // "Ring states": in-band, the first kick starts it.
            Kick(ring.Index);
        }
    }

    /// <summary>Tells where a ring is and whether what the back-end writes of it is logged, also while it runs.</summary>
    /// <param name="ring">The ring.</param>
    public void SetAddresses(FrontendRing ring)
    {
        ArgumentNullException.ThrowIfNull(ring);
        Send(FrontendRequest.SetVringAddr, new VringAddresses
        {
            Index = (uint)ring.Index,
            Flags = ring.Log is null ? 0 : VringAddresses.FlagLog,
            Descriptor = ring.Descriptors,
            Available = ring.Driver,
            Used = ring.Device,
            Log = ring.Log ?? default,
        });
    }

    /// <summary>Kicks a ring by a message.</summary>
    /// <param name="index">Which ring.</param>
    public void Kick(int index) => Send(FrontendRequest.VringKick, new VringState { Index = (uint)index });

    /// <summary>Calls that came as messages.</summary>
    /// <param name="index">Of which ring.</param>
    /// <returns>How many <see cref="ServeOne"/> has taken.</returns>
    public long Calls(int index) => Interlocked.Read(ref _calls[index]);

    /// <summary>Errors that came as messages.</summary>
    /// <param name="index">Of which ring.</param>
    /// <returns>How many <see cref="ServeOne"/> has taken.</returns>
    public long Errors(int index) => Interlocked.Read(ref _errors[index]);

    /// <summary>Chooses virtio features anew, as for the dirty log when a migration begins and when it ends.</summary>
    /// <param name="features">All of them.</param>
    public void SetFeatures(VirtioFeatures features)
    {
        Send(FrontendRequest.SetFeatures, (ulong)features);
        Features = features;
    }

    /// <summary>Says where writes to the guest's memory are logged, once VHOST_F_LOG_ALL is chosen.</summary>
    /// <param name="file">Memory for a bit for each page of 4 KiB, from guest physical address 0 on.</param>
    /// <param name="size">Bytes.</param>
    public void SetLog(FileDescriptor file, ulong size)
    {
        ArgumentNullException.ThrowIfNull(file);
        var log = new LogDescription { Size = size };
        lock (_requesting)
        {
            _channel.Send((uint)FrontendRequest.SetLogBase, 0, MemoryMarshal.AsBytes(new ReadOnlySpan<LogDescription>(in log)), file);
            ReceiveAnswer(FrontendRequest.SetLogBase);
        }
    }

    /// <summary>Asks to be told when the log was written.</summary>
    /// <param name="signal">Signalled then.</param>
    public void SetLogSignal(EventFd signal)
    {
        ArgumentNullException.ThrowIfNull(signal);
        Send(FrontendRequest.SetLogFd, ReadOnlySpan<byte>.Empty, signal.Descriptor);
    }

    /// <summary>Says what the guest is told of the largest frame.</summary>
    /// <param name="mtu">Bytes without its header.</param>
    public void SetMtu(int mtu) => Send(FrontendRequest.NetSetMtu, (ulong)mtu);

    /// <summary>Reads configuration space.</summary>
    /// <param name="offset">Where from.</param>
    /// <param name="bytes">Where to; at most 256.</param>
    /// <returns>False when the back-end says that there is nothing there.</returns>
    public bool TryReadConfig(int offset, Span<byte> bytes)
    {
        Span<byte> payload = stackalloc byte[Unsafe.SizeOf<ConfigHeader>() + MessageRule.MaxConfig];
        payload.Clear();
        MemoryMarshal.Write(payload, new ConfigHeader { Offset = (uint)offset, Size = (uint)bytes.Length });
        lock (_requesting)
        {
            _channel.Send((uint)FrontendRequest.GetConfig, 0, payload[..(Unsafe.SizeOf<ConfigHeader>() + bytes.Length)]);
            ReadOnlySpan<byte> answer = ReceiveAnswer(FrontendRequest.GetConfig);
            if (answer.Length < Unsafe.SizeOf<ConfigHeader>() + bytes.Length)
            {
                return false;
            }

            answer.Slice(Unsafe.SizeOf<ConfigHeader>(), bytes.Length).CopyTo(bytes);
            return true;
        }
    }

    /// <summary>Enables or disables a ring.</summary>
    /// <param name="index">Which ring.</param>
    /// <param name="enabled">Whether it is to be enabled.</param>
    public void Enable(int index, bool enabled) =>
        Send(FrontendRequest.SetVringEnable, new VringState { Index = (uint)index, Number = enabled ? 1u : 0u });

    /// <summary>Stops a ring. When this returns the back-end does not touch it.</summary>
    /// <param name="index">Which ring.</param>
    /// <returns>Where it stands.</returns>
    public uint StopRing(int index) =>
        Ask<VringState, VringState>(FrontendRequest.GetVringBase, new VringState { Index = (uint)index }).Number;

    /// <summary>Tells a translation, asked for or not.</summary>
    /// <param name="range">The IOVAs.</param>
    /// <param name="address">Where they are in the front-end.</param>
    /// <param name="access">What the device may do there.</param>
    public void Update(IovaRange range, FrontendAddress address, DmaAccess access)
    {
        var message = new IotlbMessage
        {
            Iova = range.First,
            Size = unchecked(range.Last.Value - range.First.Value + 1),
            UserAddress = address,
            Permissions = (byte)access,
            Type = IotlbMessageType.Update,
        };
        _channel.Send((uint)FrontendRequest.IotlbMsg, 0, MemoryMarshal.AsBytes(new ReadOnlySpan<IotlbMessage>(in message)));
    }

    /// <summary>Takes translations back. When this returns the back-end does not use them.</summary>
    /// <param name="ranges">The ranges; each is a message, and all are on their way before the first answer is waited for.</param>
    public void Invalidate(params ReadOnlySpan<IovaRange> ranges)
    {
        lock (_requesting)
        {
            const int AtOnce = 64;
            Span<IotlbMessage> messages = stackalloc IotlbMessage[AtOnce];
            for (int sent = 0; sent < ranges.Length; sent += AtOnce)
            {
                int count = Math.Min(AtOnce, ranges.Length - sent);
                for (int i = 0; i < count; i++)
                {
                    IovaRange range = ranges[sent + i];
                    messages[i] = new IotlbMessage
                    {
                        Iova = range.First,
                        // Everything has no size that fits: 0, as QEMU says it.
                        Size = unchecked(range.Last.Value - range.First.Value + 1),
                        Type = IotlbMessageType.Invalidate,
                    };
                }

                _channel.SendAll<IotlbMessage>((uint)FrontendRequest.IotlbMsg, MessageHeader.NeedReply, messages[..count]);
            }

            for (int i = 0; i < ranges.Length; i++)
            {
                ReceiveAcknowledgement(FrontendRequest.IotlbMsg);
            }
        }
    }

    /// <summary>Sends any IOTLB message, for tests.</summary>
    /// <returns>What the back-end answered: 0 for success.</returns>
    internal ulong SendIotlb(in IotlbMessage message)
    {
        lock (_requesting)
        {
            _channel.Send(
                (uint)FrontendRequest.IotlbMsg,
                MessageHeader.NeedReply,
                MemoryMarshal.AsBytes(new ReadOnlySpan<IotlbMessage>(in message)));
            return Receive<ulong>(FrontendRequest.IotlbMsg);
        }
    }

    /// <summary>Waits for the back-end's next request: answers its question, or counts its call.</summary>
    /// <returns>False when the channel ended.</returns>
    public bool ServeOne()
    {
        MessageChannel backend = _backend ?? throw new InvalidOperationException("there is no channel for requests of the back-end");
        if (!backend.Receive())
        {
            return false;
        }

        switch ((BackendRequest)backend.Header.Request)
        {
            case BackendRequest.IotlbMsg when _iommu is not null:
                Answer(_iommu, MemoryMarshal.Read<IotlbMessage>(backend.Payload));
                return true;
            case BackendRequest.VringCall:
                Interlocked.Increment(ref _calls[RingOf(backend)]);
                return true;
            case BackendRequest.VringErr:
                Interlocked.Increment(ref _errors[RingOf(backend)]);
                return true;
            default:
                throw new VhostUserProtocolException($"back-end request {backend.Header.Request}");
        }
    }

    /// <summary>Ends the connection: <see cref="ServeOne"/> returns.</summary>
    public void Close()
    {
        _backend?.Socket.Shutdown();
        _channel.Socket.Shutdown();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        Close();
        _backend?.Dispose();
        _channel.Dispose();
    }

    private static uint RingOf(MessageChannel backend) =>
        backend.Payload.Length >= Unsafe.SizeOf<VringState>() && MemoryMarshal.Read<VringState>(backend.Payload).Index is < MostRings and var index
            ? index : throw new VhostUserProtocolException($"back-end request {backend.Header.Request} of {backend.Payload.Length} bytes names no ring");

    private static RegionDescription Describe(FrontendRegion region) => new()
    {
        GuestAddress = region.Guest,
        Size = region.Length,
        UserAddress = region.Frontend,
    };

    private void Answer(FrontendIommu iommu, in IotlbMessage message)
    {
        if (message.Type == IotlbMessageType.AccessFail)
        {
            AccessFailures++;
            return;
        }

        Misses++;
        Unanswered += iommu.Translate(message.Iova, _update) ? 0 : 1;
    }

    // Bit 8: there is none.
    private void SetDescriptor(FrontendRequest request, uint index, EventFd? descriptor)
    {
        if (descriptor is not null)
        {
            Send(request, (ulong)index, descriptor.Descriptor);
        }
        else
        {
            Send(request, (ulong)index | 0x100);
        }
    }

    private void Send<T>(FrontendRequest request, T payload, params ReadOnlySpan<FileDescriptor> files)
        where T : unmanaged =>
        Send(request, MemoryMarshal.AsBytes(new ReadOnlySpan<T>(in payload)), files);

    private void Send(FrontendRequest request, ReadOnlySpan<byte> payload, params ReadOnlySpan<FileDescriptor> files)
    {
        lock (_requesting)
        {
            _channel.Send((uint)request, _acknowledges ? MessageHeader.NeedReply : 0, payload, files);
            if (_acknowledges)
            {
                ReceiveAcknowledgement(request);
            }
        }
    }

    private T Ask<T>(FrontendRequest request)
        where T : unmanaged
    {
        lock (_requesting)
        {
            _channel.Send((uint)request, 0, ReadOnlySpan<byte>.Empty);
            return Receive<T>(request);
        }
    }

    private TReply Ask<TRequest, TReply>(FrontendRequest request, TRequest payload)
        where TRequest : unmanaged
        where TReply : unmanaged
    {
        lock (_requesting)
        {
            _channel.Send((uint)request, 0, MemoryMarshal.AsBytes(new ReadOnlySpan<TRequest>(in payload)));
            return Receive<TReply>(request);
        }
    }

    private void ReceiveAcknowledgement(FrontendRequest request)
    {
        ulong failed = Receive<ulong>(request);
        if (failed != 0)
        {
            throw new VhostUserProtocolException($"the back-end refused {request} ({failed})");
        }
    }

    private T Receive<T>(FrontendRequest request)
        where T : unmanaged
    {
        ReadOnlySpan<byte> answer = ReceiveAnswer(request);
        return answer.Length >= Unsafe.SizeOf<T>()
            ? MemoryMarshal.Read<T>(answer)
            : throw new VhostUserProtocolException($"the back-end answered {request} with {answer.Length} bytes");
    }

    // Whatever it is, until the next one.
    private ReadOnlySpan<byte> ReceiveAnswer(FrontendRequest request) =>
        !_channel.Receive()
            ? throw new VhostUserProtocolException($"the back-end closed instead of answering {request}")
            : _channel.Header.Request == (uint)request
                ? _channel.Payload
                : throw new VhostUserProtocolException($"the back-end answered {_channel.Header.Request} to {request}");
}
