using System.Diagnostics;
using Vfio.Linux;
using Vfio.VhostUser;
using Vfio.Virtio;

namespace Vfio.Testing.VhostUser;

/// <summary>A guest at a port's socket that sends and receives frames of its own, each told from the others by its seed.</summary>
public sealed class PortGuest : IDisposable
{
    private const int SlotBytes = 4096;

    private readonly IotlbGuest _guest;
    private readonly Completion[] _completion = new Completion[1];

    /// <summary>Connects to a port that listens.</summary>
    public PortGuest(
        string socketPath,
        VirtioFeatures features = VirtioFeatures.Version1,
        ProtocolFeatures more = ProtocolFeatures.None,
        Func<FrontendRing, FrontendRing>? shape = null)
        : this(
            UnixSocket.TryConnect(socketPath, out Errno errno) ?? throw new InvalidOperationException($"{socketPath}: {errno}"),
            features, more, shape)
    {
    }

    /// <summary>Takes a connection.</summary>
    public PortGuest(
        UnixSocket socket,
        VirtioFeatures features = VirtioFeatures.Version1,
        ProtocolFeatures more = ProtocolFeatures.None,
        Func<FrontendRing, FrontendRing>? shape = null)
    {
        _guest = new IotlbGuest(socket, features, 2 << 20, 64, hasIommu: false, more: more, shape: shape);
    }

    /// <summary>The guest underneath.</summary>
    public IotlbGuest Machine => _guest;

    /// <summary>Waits for something that another thread or process does; a minute is for ever.</summary>
    public static void Until(Func<bool> condition, string otherwise)
    {
        ArgumentNullException.ThrowIfNull(condition);
        long begin = Stopwatch.GetTimestamp();
        while (!condition())
        {
            if (Stopwatch.GetElapsedTime(begin).TotalSeconds > 60)
            {
                throw new InvalidOperationException(otherwise);
            }

            Thread.Yield();
        }
    }

    /// <summary>The frame of a seed.</summary>
    public static byte[] FrameOf(byte seed) => [.. Enumerable.Range(0, 200).Select(i => unchecked((byte)((i * 7) + seed)))];

    /// <summary>Gives the device a receive buffer.</summary>
    public void Offer()
    {
        Add(_guest.Receive, _guest.Plain(0, SlotBytes), DeviceAccess.Write);
    }

    /// <summary>Sends a frame, and waits until the device has taken it.</summary>
    public void Send(byte seed)
    {
        Post(seed);
        Until(() => _guest.Transmit.Reap(_completion) == 1, "the frame was not taken");
    }

    /// <summary>Sends a frame.</summary>
    public void Post(byte seed)
    {
        byte[] frame = FrameOf(seed);
        PinnedBuffer buffer = _guest.Plain(SlotBytes, NetHeader.Bytes + frame.Length);
        buffer.Span[..NetHeader.Bytes].Clear();
        frame.CopyTo(buffer.Span[NetHeader.Bytes..]);
        Add(_guest.Transmit, buffer, DeviceAccess.Read);
    }

    /// <summary>Waits for a frame in the buffer that was offered.</summary>
    public byte[] Receive()
    {
        Until(() => _guest.Receive.Reap(_completion) == 1, "no frame came");
        return _guest.Plain(NetHeader.Bytes, (int)_completion[0].Written - NetHeader.Bytes).Span.ToArray();
    }

    /// <summary>Sends itself a frame and compares what comes back.</summary>
    public bool RoundTrip(byte seed)
    {
        Offer();
        Send(seed);
        return Receive().AsSpan().SequenceEqual(FrameOf(seed));
    }

    /// <summary>Whether the back-end has ended the session.</summary>
    public bool IsCutOff()
    {
        try
        {
            _guest.Frontend.StopRing(0);
            return false;
        }
        catch (Exception e) when (e is LinuxException or VhostUserProtocolException)
        {
            return true;
        }
    }

    /// <summary>Does what kills a ring: a buffer outside the guest's memory.</summary>
    public void BreakTransmitRing() =>
        Add(_guest.Transmit, new PinnedBuffer(new Iova(0x7000_0000_0000), _guest.Region.Host, 100), DeviceAccess.Read);

    /// <summary>Does what kills the other one: a buffer that may only be read.</summary>
    public void BreakReceiveRing() => Add(_guest.Receive, _guest.Plain(0, SlotBytes), DeviceAccess.Read);

    public void Dispose() => _guest.Dispose();

    private void Add(DriverQueue queue, PinnedBuffer buffer, DeviceAccess access)
    {
        if (!queue.TryAdd([new DmaSegment(buffer, access)], out _))
        {
            throw new InvalidOperationException("the ring is full");
        }

        if (queue.Publish())
        {
            _guest.Kick();
        }
    }
}
