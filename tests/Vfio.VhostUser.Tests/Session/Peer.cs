using System.Runtime.InteropServices;
using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.VhostUser.Tests.Session;

/// <summary>A front-end that says what a test wants, right or wrong, to a real session on a real socket.</summary>
internal sealed class Peer : IDisposable
{
    public const ulong MemoryLength = 1 << 20;
    public static readonly GuestPhysicalAddress Guest = new(0x1_0000_0000);
    public static readonly FrontendAddress User = new(0x7f00_0000_0000);

    private readonly UnixSocket _raw;
    private readonly MessageChannel _channel;
    private readonly VhostUserSession _session;
    private readonly Thread _thread;

    public Peer(MappingLimits? limits = null, bool canShrink = false)
    {
        (_raw, UnixSocket theirs) = UnixSocket.Pair();
        _channel = new MessageChannel(_raw);
        _session = new VhostUserSession(theirs, Device, Log.Enqueue, limits);
        Memory = MemoryFile.Create("guest", MemoryLength, canShrink: canShrink);
        _thread = new Thread(() =>
        {
            try
            {
                _session.Run();
            }
            catch (TimeoutException e)
            {
                Stalled = e;
            }

            // As whoever runs sessions does: what is sent to one that has ended is an error, not a wait.
            _session.Close();
        });
        _thread.Start();
    }

    public RecordingDevice Device { get; } = new();

    public System.Collections.Concurrent.ConcurrentQueue<string> Log { get; } = new();

    public FileDescriptor Memory { get; }

    public VhostUserSession Session => _session;

    /// <summary>That a thread of the device was stuck, if the session ended so.</summary>
    public TimeoutException? Stalled { get; private set; }

    public bool AsksForReplies { get; set; }

    /// <summary>What a well-behaved front-end says first.</summary>
    public Peer Negotiate(
        VirtioFeatures features = VirtioFeatures.Version1,
        ProtocolFeatures protocol = ProtocolFeatures.ReplyAck | ProtocolFeatures.ConfigureMemSlots | ProtocolFeatures.Mq
            | ProtocolFeatures.NetMtu | ProtocolFeatures.Config | ProtocolFeatures.Status | ProtocolFeatures.LogShmfd
            | ProtocolFeatures.ResetDevice | ProtocolFeatures.BackendReq | ProtocolFeatures.InbandNotifications)
    {
        Send(FrontendRequest.SetOwner, []);
        Send(FrontendRequest.SetProtocolFeatures, (ulong)protocol);
        AsksForReplies = protocol.HasFlag(ProtocolFeatures.ReplyAck);
        Accepted(FrontendRequest.SetFeatures, (ulong)(features | VhostFeatures.ProtocolFeatures));
        return this;
    }

    public Peer ShareMemory()
    {
        Accepted(FrontendRequest.AddMemReg, Region(Guest, User, MemoryLength), Memory);
        return this;
    }

    public static SingleRegion Region(GuestPhysicalAddress guest, FrontendAddress user, ulong length, ulong offset = 0) => new()
    {
        Region = new RegionDescription { GuestAddress = guest, UserAddress = user, Size = length, MmapOffset = offset },
    };

    public static VringAddresses Addresses(uint index) => new()
    {
        Index = index,
        Descriptor = User + (index * 0x10000),
        Available = User + (index * 0x10000) + 0x4000,
        Used = User + (index * 0x10000) + 0x8000,
    };

    public void SetUpRing(uint index, uint size = 256)
    {
        Accepted(FrontendRequest.SetVringNum, new VringState { Index = index, Number = size });
        Accepted(FrontendRequest.SetVringBase, new VringState { Index = index });
        Accepted(FrontendRequest.SetVringAddr, Addresses(index));
        Accepted(FrontendRequest.SetVringEnable, new VringState { Index = index, Number = 1 });
        using var kick = new EventFd();
        Accepted(FrontendRequest.SetVringKick, (ulong)index, kick.Descriptor);
    }

    public void Send<T>(FrontendRequest request, T payload, params ReadOnlySpan<FileDescriptor> files)
        where T : unmanaged =>
        Send(request, MemoryMarshal.AsBytes(new ReadOnlySpan<T>(in payload)), files);

    public void Send(FrontendRequest request, ReadOnlySpan<byte> payload, params ReadOnlySpan<FileDescriptor> files) =>
        _channel.Send((uint)request, AsksForReplies ? MessageHeader.NeedReply : 0, payload, files);

    public void SendRaw(ReadOnlySpan<byte> bytes, params ReadOnlySpan<FileDescriptor> files) => _raw.Send(bytes, files);

    public void Accepted<T>(FrontendRequest request, T payload, params ReadOnlySpan<FileDescriptor> files)
        where T : unmanaged
    {
        Send(request, payload, files);
        Assert.AreEqual(AsksForReplies ? 0ul : null, Answer(), $"{request}: {string.Join("; ", Log)}");
    }

    public void Refused<T>(FrontendRequest request, T payload, params ReadOnlySpan<FileDescriptor> files)
        where T : unmanaged
    {
        Send(request, payload, files);
        Assert.AreEqual(1ul, Answer(), $"{request} was accepted");
    }

    public T Ask<T>(FrontendRequest request, ReadOnlySpan<byte> payload)
        where T : unmanaged
    {
        _channel.Send((uint)request, 0, payload);
        Assert.IsTrue(_channel.Receive(), string.Join("; ", Log));
        Assert.AreEqual((uint)request, _channel.Header.Request);
        Assert.AreEqual(MessageHeader.Version | MessageHeader.Reply, _channel.Header.Flags);
        return _channel.Payload.Length == 0 ? default : MemoryMarshal.Read<T>(_channel.Payload);
    }

    public T Ask<T>(FrontendRequest request, T payload)
        where T : unmanaged => Ask<T>(request, MemoryMarshal.AsBytes(new ReadOnlySpan<T>(in payload)));

    /// <summary>Says where writes are logged; the answer has no body.</summary>
    public void SetLog(ulong length, FileDescriptor file)
    {
        Send(FrontendRequest.SetLogBase, new LogDescription { Size = length }, file);
        Assert.IsTrue(_channel.Receive(), string.Join("; ", Log));
        Assert.AreEqual(0, _channel.Payload.Length);
    }

    /// <summary>The descriptor that came with the last answer.</summary>
    public FileDescriptor TakeDescriptor() => _channel.Descriptors.Take(0);

    /// <summary>Whether the session has said nothing more before it ended.</summary>
    public bool IsSilent() => !_channel.Receive();

    public ulong ReadAnswer() => Answer() ?? throw new InvalidOperationException("no answer was asked for");

    /// <summary>Nothing more comes from this side; the session must end by itself.</summary>
    public void AssertEnds()
    {
        Assert.IsTrue(_thread.Join(TimeSpan.FromSeconds(30)), "the session goes on");
        Assert.IsEmpty(Device.Running);
    }

    public void Close() => _raw.Shutdown();

    public void Dispose()
    {
        Close();
        AssertEnds();
        _session.Dispose();
        _channel.Dispose();
        Memory.Dispose();
    }

    private ulong? Answer()
    {
        if (!AsksForReplies)
        {
            return null;
        }

        Assert.IsTrue(_channel.Receive(), $"no answer: {string.Join("; ", Log)}");
        return MemoryMarshal.Read<ulong>(_channel.Payload);
    }
}
