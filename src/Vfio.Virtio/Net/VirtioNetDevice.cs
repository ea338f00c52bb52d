using System.Diagnostics;
using System.Runtime.InteropServices;
using Vfio.Linux;

namespace Vfio.Virtio;

/// <summary>Drives a virtio network device (virtio 1.3, 5.1 "Network Device"): one receive queue, one transmit queue, over pinned
/// memory that is mapped once. Frames are handed on where they are: a buffer that came in can be sent.
/// <code>
/// using var card = VirtioNetDevice.Open(device, pool.Allocate(options.ArenaBytes), options);
/// int n = card.Receive(frames);
/// int sent = card.Send(frames[..n]);
/// card.Free(frames[sent..n]);
/// </code></summary>
/// <remarks>
/// <para>Not thread-safe: one thread at a time. Polls; the device is told that interrupts are not needed, so it needs none.
/// Nothing allocates but <see cref="Open"/>.</para>
/// <para>Nothing that the device writes is trusted: lengths, ids and counts of buffers are checked, and one that does not keep to
/// the specification is reset before anybody hears of it. What it writes into frames is the reader's to check.</para>
/// <para>The arena is the device's until this object was disposed: disposing resets the device first.</para>
/// </remarks>
public sealed class VirtioNetDevice : IDisposable
{
    /// <summary>Bytes of the shortest frame that is one: two addresses and a type.</summary>
    public const int MinFrameBytes = 14;

    // virtio 1.3, 5.1.2 "Virtqueues": 0 is receiveq1, 1 is transmitq1.
    internal const int ReceiveQueue = 0;
    internal const int TransmitQueue = 1;

    private readonly VirtioPciTransport _transport;
    private readonly DriverQueue _receive;
    private readonly DriverQueue _transmit;
    private readonly NetBufferSlots _slots;
    private readonly Action<IovaRange>? _deviceWrote;
    private readonly Action<IovaRange>? _driverSent;
    private readonly bool _merges;

    // By id of the chain: the buffer of a receive chain, the first one of a transmit chain. Further ones hang on it.
    private readonly int[] _receiveSlots;
    private readonly int[] _transmitSlots;
    private readonly int[] _nextPiece;
    private readonly DmaSegment[] _chain;
    private readonly Completion[] _completions = new Completion[64];

    // Of a frame whose buffers have not all come yet.
    private readonly NetBuffer[] _partial;
    private int _partialCount;
    private int _partialWanted;
    private long _received;
    private long _receivedBytes;
    private long _runts;
    private long _sent;
    private long _sentBytes;
    private long _notifications;
    private bool _stopped;
    private bool _wasReset;

    private VirtioNetDevice(VirtioPciTransport transport, VirtioNetOptions options, VirtioNetParts parts)
    {
        _transport = transport;
        _receive = parts.Receive;
        _transmit = parts.Transmit;
        _deviceWrote = options.DeviceWrote;
        _driverSent = options.DriverSent;
        _merges = parts.Info.NetFeatures.HasFlag(NetFeatures.MrgRxbuf);
        _slots = new NetBufferSlots(parts.Buffers, options.BufferCount, options.BufferBytes);
        _receiveSlots = new int[_receive.Size];
        _transmitSlots = new int[_transmit.Size];
        _nextPiece = new int[options.BufferCount];
        _chain = new DmaSegment[Math.Min(VirtioNetParts.MostPieces, _transmit.Size)];
        _partial = new NetBuffer[parts.Info.MaxPieces];
        Info = parts.Info;
    }

    /// <summary>What the device says of itself.</summary>
    public VirtioNetInfo Info { get; }

    /// <summary>What was done so far.</summary>
    public NetCounters Counters => new(_received, _receivedBytes, _runts, _sent, _sentBytes, _notifications);

    /// <summary>Whether the link is up, as the device says now; true where it does not tell. Reads a register.</summary>
    public bool IsLinkUp
    {
        get
        {
            ThrowIfStopped();
            Span<byte> configuration = stackalloc byte[8];
            return !Info.NetFeatures.HasFlag(NetFeatures.Status)
                || (_transport.ReadConfiguration(configuration) == configuration.Length
                    && (MemoryMarshal.Read<ushort>(configuration[6..]) & virtio_net.VIRTIO_NET_S_LINK_UP) != 0);
        }
    }

    /// <summary>Takes a network device into use.</summary>
    /// <param name="device">The device, held through VFIO; it stays its owner's.</param>
    /// <param name="arena">Pinned memory that the device reaches, at least <see cref="VirtioNetOptions.ArenaBytes"/>, aligned to
    /// 128. It is this object's until that is disposed.</param>
    /// <param name="options">How to drive it.</param>
    /// <returns>The device, which receives already.</returns>
    /// <exception cref="VirtioException">It is no virtio network device, lacks a required feature, or does not keep to the
    /// specification. It is reset then.</exception>
    /// <exception cref="LinuxException">A register could not be reached.</exception>
    public static VirtioNetDevice Open(VfioDevice device, PinnedBuffer arena, VirtioNetOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(device);
        options ??= new VirtioNetOptions();
        ArgumentOutOfRangeException.ThrowIfLessThan(arena.Length, options.ArenaBytes, nameof(arena));
        VirtioPciTransport transport = VirtioNetParts.OpenTransport(device);
        try
        {
            VirtioNetParts parts = VirtioNetParts.Of(transport, arena, options);
            var card = new VirtioNetDevice(transport, options, parts);
            transport.SetConfigurationVector(null);
            foreach ((int index, DriverQueue queue) in ((int, DriverQueue)[])[(ReceiveQueue, parts.Receive), (TransmitQueue, parts.Transmit)])
            {
                transport.EnableQueue(index, queue, null);
                queue.DisableNotifications();
            }

            transport.Start();
            card.Refill();
            return card;
        }
        catch
        {
            transport.Reset();
            throw;
        }
    }

    /// <summary>Takes frames that came in, and gives the device fresh buffers for them. Does not wait.</summary>
    /// <param name="frames">Filled from the front, at least <see cref="VirtioNetInfo.MaxPieces"/> of them: a frame in several
    /// buffers takes several, one after the other, and never a part of one alone.</param>
    /// <returns>How many buffers; the caller's now.</returns>
    /// <exception cref="VirtioException">The device does not keep to the specification. It was reset, and this object can only be
    /// disposed.</exception>
    public int Receive(Span<NetBuffer> frames)
    {
        ThrowIfStopped();
        ArgumentOutOfRangeException.ThrowIfLessThan(frames.Length, Info.MaxPieces, nameof(frames));
        int filled = 0;
        bool any = false;
        // Pieces that wait are counted in, so that what is reaped always has a place.
        while (filled + _partialCount < frames.Length)
        {
            int wanted = Math.Min(_completions.Length, frames.Length - filled - _partialCount);
            int count = _receive.Reap(_completions.AsSpan(0, wanted));
            for (int i = 0; i < count; i++)
            {
                filled += Take(_completions[i], frames[filled..]);
            }

            any |= count != 0;
            if (count < wanted)
            {
                break;
            }
        }

        Check(_receive, "receive");
        if (any)
        {
            _deviceWrote?.Invoke(_receive.DeviceWritten);
        }

        Refill();
        return filled;
    }

    /// <summary>Takes empty buffers, to fill and send.</summary>
    /// <param name="buffers">Filled from the front with buffers of no bytes.</param>
    /// <returns>How many there were.</returns>
    /// <exception cref="VirtioException">As <see cref="Receive"/>.</exception>
    public int Allocate(Span<NetBuffer> buffers)
    {
        ThrowIfStopped();
        if (_slots.Free < buffers.Length)
        {
            ReclaimSent();
        }

        int count = 0;
        while (count < buffers.Length && _slots.TryTake(NetBufferSlots.Holder.Caller, out int slot))
        {
            buffers[count++] = new NetBuffer(slot, _slots.Memory(slot), NetHeader.Bytes, 0, continues: false);
        }

        return count;
    }

    /// <summary>Gives buffers back that are not sent.</summary>
    /// <param name="buffers">The caller's.</param>
    /// <exception cref="ArgumentException">One is not.</exception>
    public void Free(ReadOnlySpan<NetBuffer> buffers)
    {
        foreach (ref readonly NetBuffer buffer in buffers)
        {
            _slots.CheckCaller(buffer);
            _slots.Return(buffer.Slot);
        }
    }

    /// <summary>Hands frames to the device, at once. Does not wait.</summary>
    /// <param name="frames">The caller's buffers; a frame that continues takes several.</param>
    /// <returns>How many buffers the device has now, from the front, whole frames only; the others stay the caller's.</returns>
    /// <exception cref="ArgumentException">A buffer is not the caller's, or a frame is none; those before it were taken.</exception>
    /// <exception cref="VirtioException">As <see cref="Receive"/>.</exception>
    public int Send(ReadOnlySpan<NetBuffer> frames)
    {
        ThrowIfStopped();
        if (_transmit.FreeDescriptors < frames.Length)
        {
            ReclaimSent();
        }

        int taken = 0;
        try
        {
            while (taken < frames.Length)
            {
                int pieces = Describe(frames[taken..], out int bytes);
                if (!_transmit.TryAdd(_chain.AsSpan(0, pieces), out ushort id))
                {
                    break;
                }

                HandOver(id, frames.Slice(taken, pieces));
                taken += pieces;
                _sent++;
                _sentBytes += bytes;
            }
        }
        finally
        {
            Publish(_transmit, TransmitQueue);
        }

        return taken;
    }

    /// <summary>Counts the frames that the device has and has not sent yet.</summary>
    /// <returns>How many.</returns>
    /// <exception cref="VirtioException">As <see cref="Receive"/>.</exception>
    public int CountUnsent()
    {
        ThrowIfStopped();
        ReclaimSent();
        return _transmit.Outstanding;
    }

    /// <summary>Asks the device whether it still works. Reads a register, so not for every poll.</summary>
    /// <exception cref="VirtioException">It gave up. It was reset, and this object can only be disposed.</exception>
    public void CheckHealth()
    {
        ThrowIfStopped();
        if (_transport.NeedsReset)
        {
            throw Stop("it asks for a reset (DEVICE_NEEDS_RESET)", "the device met an error that it cannot recover from",
                "look at the log of the hypervisor, and open the device again");
        }
    }

    /// <summary>Resets the device and forgets all frames. Memory may be unmapped after this.</summary>
    /// <exception cref="VirtioException">The device does not come back from the reset; memory that it knows must stay mapped until
    /// the <see cref="VfioDevice"/> is closed. Disposing again tries again, so that nobody takes the memory for free.</exception>
    public void Dispose()
    {
        _stopped = true;
        if (!_wasReset)
        {
            _transport.Reset();
            _wasReset = true;
        }
    }

    // Takes one used buffer of the receive queue; returns how many pieces of frames that are whole now it put out.
    private int Take(Completion completion, Span<NetBuffer> frames)
    {
        int slot = _receiveSlots[completion.Id];
        PinnedBuffer memory = _slots.Memory(slot);
        _slots.Give(slot, NetBufferSlots.Holder.Caller);
        if (_deviceWrote is { } wrote && completion.Written != 0)
        {
            wrote(IovaRange.Of(memory.Iova, completion.Written));
        }

        int written = (int)completion.Written;
        bool first = _partialCount == 0;
        if (written < (first ? NetHeader.Bytes : 1))
        {
            throw Stop($"it received a buffer of {written} bytes", "that is shorter than the header, or nothing at all");
        }

        int offset = first ? NetHeader.Bytes : 0;
        var buffer = new NetBuffer(slot, memory, offset, written - offset, continues: false);
        if (first)
        {
            // Read once: the device could change it. Without MRG_RXBUF the field says nothing (virtio 1.3, 5.1.6.4).
            int pieces = _merges ? MemoryMarshal.Read<NetHeader>(memory.Span).BufferCount : 1;
            if (pieces < 1 || pieces > Info.MaxPieces)
            {
                throw Stop($"it received a frame in {pieces} buffers", $"a frame of the MTU takes {Info.MaxPieces} at most, and no frame none");
            }

            _partialWanted = pieces;
        }

        _partial[_partialCount++] = buffer.WithContinuation(_partialCount < _partialWanted);
        return _partialCount == _partialWanted ? PutOut(frames) : 0;
    }

    private int PutOut(Span<NetBuffer> frames)
    {
        ReadOnlySpan<NetBuffer> frame = _partial.AsSpan(0, _partialCount);
        _partialCount = 0;
        int bytes = 0;
        foreach (ref readonly NetBuffer piece in frame)
        {
            bytes += piece.Length;
        }

        if (bytes < MinFrameBytes)
        {
            Free(frame);
            _runts++;
            return 0;
        }

        frame.CopyTo(frames);
        _received++;
        _receivedBytes += bytes;
        return frame.Length;
    }

    private void Refill()
    {
        int room = _receive.FreeDescriptors;
        if (_slots.Free < room)
        {
            ReclaimSent();
        }

        Span<DmaSegment> one = _chain.AsSpan(0, 1);
        while (room-- > 0 && _slots.TryTake(NetBufferSlots.Holder.Device, out int slot))
        {
            one[0] = new DmaSegment(_slots.Memory(slot), DeviceAccess.Write);
            bool added = _receive.TryAdd(one, out ushort id);
            Debug.Assert(added, "there was a free descriptor");
            _receiveSlots[id] = slot;
        }

        Publish(_receive, ReceiveQueue);
    }

    // The chain of the frame that the buffers begin with.
    private int Describe(ReadOnlySpan<NetBuffer> buffers, out int bytes)
    {
        int pieces = 0;
        bytes = 0;
        bool continues = true;
        while (continues)
        {
            if (pieces == buffers.Length || pieces == _chain.Length)
            {
                throw new ArgumentException($"a frame goes on behind its last buffer, or has more than {_chain.Length}", nameof(buffers));
            }

            ref readonly NetBuffer buffer = ref buffers[pieces];
            _slots.CheckCaller(buffer);
            for (int i = 0; i < pieces; i++)
            {
                if (buffers[i].Slot == buffer.Slot)
                {
                    throw new ArgumentException("a frame has the same buffer twice", nameof(buffers));
                }
            }

            // The header of the first one is in front of its frame.
            int header = pieces == 0 ? NetHeader.Bytes : 0;
            if (buffer.Offset < header || buffer.Length == 0)
            {
                throw new ArgumentException("a piece of a frame has no bytes, or a frame begins with a buffer that another one continued in", nameof(buffers));
            }

            _chain[pieces++] = new DmaSegment(
                buffer.Memory.Slice(buffer.Offset - header, header + buffer.Length), DeviceAccess.Read);
            bytes += buffer.Length;
            continues = buffer.Continues;
        }

        return bytes >= MinFrameBytes ? pieces
            : throw new ArgumentException($"a frame has at least {MinFrameBytes} bytes, not {bytes}", nameof(buffers));
    }

    private void HandOver(ushort id, ReadOnlySpan<NetBuffer> frame)
    {
        // virtio 1.3, 5.1.6.2 "Packet Transmission": no offload, and num_buffers is 0.
        MemoryMarshal.Write(_chain[0].Buffer.Span, default(NetHeader));
        _transmitSlots[id] = frame[0].Slot;
        for (int i = 0; i < frame.Length; i++)
        {
            int slot = frame[i].Slot;
            _slots.Give(slot, NetBufferSlots.Holder.Device);
            _nextPiece[slot] = i + 1 < frame.Length ? frame[i + 1].Slot : -1;
            _driverSent?.Invoke(IovaRange.Of(_chain[i].Buffer.Iova, (ulong)_chain[i].Buffer.Length));
        }
    }

    private void ReclaimSent()
    {
        int count;
        bool any = false;
        do
        {
            count = _transmit.Reap(_completions);
            any |= count != 0;
            for (int i = 0; i < count; i++)
            {
                for (int slot = _transmitSlots[_completions[i].Id]; slot >= 0;)
                {
                    int next = _nextPiece[slot];
                    _slots.Return(slot);
                    slot = next;
                }
            }
        }
        while (count == _completions.Length);
        if (any)
        {
            _deviceWrote?.Invoke(_transmit.DeviceWritten);
        }

        Check(_transmit, "transmit");
    }

    private void Publish(DriverQueue queue, int index)
    {
        if (queue.Publish())
        {
            _transport.Notify(index);
            _notifications++;
        }
    }

    private void Check(DriverQueue queue, string name)
    {
        if (queue.Error != RingError.None)
        {
            throw Stop($"it answered in the {name} queue with a ring error: {queue.Error}", "the device does not keep to the specification");
        }
    }

    // A device that answers nonsense may still write anywhere: it is reset before anybody hears of it.
    private VirtioException Stop(string what, string cause, string? cure = null)
    {
        Dispose();
        return new VirtioException(_transport.Address, what, cause, cure ?? "open the device again; if it stays, unbind it and bind it again");
    }

    private void ThrowIfStopped() => ObjectDisposedException.ThrowIf(_stopped, this);
}
