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
    private readonly MessageChannel _channel;
    private readonly Lock _requesting = new();
    private readonly MessageChannel? _backend;
    private readonly FrontendIommu? _iommu;
    private readonly Action<IovaRange, FrontendAddress, DmaAccess> _update;
    private readonly bool _acknowledges;

    /// <summary>Negotiates with a back-end.</summary>
    /// <param name="socket">The connection; owned from now on.</param>
    /// <param name="wanted">The virtio features that are wanted, as far as they are on offer.</param>
    /// <param name="iommu">What answers IOTLB misses; null for none, and then VIRTIO_F_ACCESS_PLATFORM is not negotiated.</param>
    /// <param name="tracksInflight">Whether what is in flight is to be recorded: see <see cref="CreateInflight"/>.</param>
    /// <exception cref="VhostUserProtocolException">The back-end said something impossible.</exception>
    /// <exception cref="LinuxException">The connection broke.</exception>
    public VhostUserFrontend(UnixSocket socket, VirtioFeatures wanted, FrontendIommu? iommu = null, bool tracksInflight = false)
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
            | ProtocolFeatures.ConfigureMemSlots | (tracksInflight ? ProtocolFeatures.InflightShmfd : 0));
        Send(FrontendRequest.SetProtocolFeatures, (ulong)ProtocolFeatures);
        _acknowledges = ProtocolFeatures.HasFlag(ProtocolFeatures.ReplyAck);
        if (iommu is not null)
        {
            if (!Features.HasFlag(VirtioFeatures.AccessPlatform) || !ProtocolFeatures.HasFlag(ProtocolFeatures.BackendReq))
            {
                throw new VhostUserProtocolException(
                    $"the back-end offers no IOTLB: features {Features}, protocol features {ProtocolFeatures}");
            }

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
    public VirtioFeatures Features { get; }

    /// <summary>The protocol features that were negotiated.</summary>
    public ProtocolFeatures ProtocolFeatures { get; }

    /// <summary>Misses that the back-end asked about.</summary>
    public long Misses { get; private set; }

    /// <summary>Misses that nothing was mapped for.</summary>
    public long Unanswered { get; private set; }

    /// <summary>Access failures that the back-end reported.</summary>
    public long AccessFailures { get; private set; }

    /// <summary>Readable when the back-end asks; null without an IOMMU.</summary>
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
        Send(FrontendRequest.SetVringAddr, new VringAddresses
        {
            Index = index,
            Descriptor = ring.Descriptors,
            Available = ring.Driver,
            Used = ring.Device,
        });
        if (ring.Call is { } call)
        {
            Send(FrontendRequest.SetVringCall, (ulong)index, call.Descriptor);
        }
        else
        {
            Send(FrontendRequest.SetVringCall, (ulong)index | 0x100);
        }

        // First: what a ring has that is started and not enabled is dropped.
        Enable(ring.Index, true);
        Send(FrontendRequest.SetVringKick, (ulong)index, ring.Kick.Descriptor);
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

    /// <summary>Waits for the back-end's next question and answers it.</summary>
    /// <returns>False when the channel ended.</returns>
    public bool ServeOne()
    {
        MessageChannel backend = _backend ?? throw new InvalidOperationException("there is no IOMMU to be asked about");
        if (!backend.Receive())
        {
            return false;
        }

        if (backend.Header.Request != (uint)BackendRequest.IotlbMsg)
        {
            throw new VhostUserProtocolException($"back-end request {backend.Header.Request}");
        }

        IotlbMessage message = MemoryMarshal.Read<IotlbMessage>(backend.Payload);
        if (message.Type == IotlbMessageType.AccessFail)
        {
            AccessFailures++;
            return true;
        }

        Misses++;
        Unanswered += _iommu!.Translate(message.Iova, _update) ? 0 : 1;
        return true;
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

    private static RegionDescription Describe(FrontendRegion region) => new()
    {
        GuestAddress = region.Guest,
        Size = region.Length,
        UserAddress = region.Frontend,
    };

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
        where T : unmanaged =>
        !_channel.Receive()
            ? throw new VhostUserProtocolException($"the back-end closed instead of answering {request}")
            : _channel.Header.Request == (uint)request && _channel.Payload.Length >= Unsafe.SizeOf<T>()
                ? MemoryMarshal.Read<T>(_channel.Payload)
                : throw new VhostUserProtocolException($"the back-end answered {_channel.Header.Request} to {request}");
}
