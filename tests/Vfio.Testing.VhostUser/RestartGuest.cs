using System.Runtime.InteropServices;
using Vfio.Linux;
using Vfio.VhostUser;
using Vfio.Virtio;

namespace Vfio.Testing.VhostUser;

/// <summary>A guest that lives on while its back-ends die: it sends itself numbered frames, keeps an account of every descriptor, and
/// hands rings and inflight buffer to the next back-end as the dead one left them.</summary>
public sealed class RestartGuest : IDisposable
{
    private const ulong GuestBase = 0x4000_0000;
    private const ulong RingBytes = 1 << 20;
    private const int RingSize = 128;
    private const int SlotBytes = 2048;
    private const int FrameBytes = 400;
    private const int NumberAt = 16;

    // With those in the device's hands, no more than there are receive buffers: a frame that finds one late is not dropped.
    private const int MostSent = 60;

    private readonly FrontendRegion _region = new(
        $"restart-{Guid.NewGuid():N}"[..20], new GuestPhysicalAddress(GuestBase), RingBytes + (2ul * RingSize * SlotBytes));

    private readonly EventFd _kick = new();
    private readonly VirtioFeatures _features;
    private readonly Account _receive;
    private readonly Account _transmit;
    private readonly Queue<long> _again = new();
    private readonly HashSet<long> _missing = [];
    private readonly Completion[] _completions = new Completion[32];
    private VhostUserFrontend? _frontend;
    private FrontendInflight? _inflight;
    private long _next;

    /// <summary>Makes memory and rings.</summary>
    /// <param name="features">The layout.</param>
    public RestartGuest(VirtioFeatures features)
    {
        _features = features | VirtioFeatures.Version1;
        _receive = new Account(this, 0);
        _transmit = new Account(this, 1);
    }

    /// <summary>Frames that were sent for the first time.</summary>
    public long Sent => _next;

    /// <summary>Frames that were sent again, because the device had them and they did not come.</summary>
    public long SentAgain { get; private set; }

    /// <summary>Frames that came, and came no second time.</summary>
    public long Arrived => _next - _missing.Count;

    /// <summary>Frames that came more often than once.</summary>
    public long Repeated { get; private set; }

    /// <summary>Whether the frame that was sent last has come.</summary>
    public bool HasLast => !_missing.Contains(_next - 1);

    /// <summary>Descriptors that the device had when it was last connected.</summary>
    public int Outstanding => _transmit.Slots.Count;

    /// <summary>Hands everything to a back-end.</summary>
    public void Connect(UnixSocket socket)
    {
        _frontend = new VhostUserFrontend(socket, _features, more: ProtocolFeatures.InflightShmfd);
        if (!_frontend.ProtocolFeatures.HasFlag(ProtocolFeatures.InflightShmfd) || (_frontend.Features & _features) != _features)
        {
            throw new InvalidOperationException($"the back-end lacks features: {_frontend.Features}, {_frontend.ProtocolFeatures}");
        }

        _frontend.SetMemory(_region);
        _inflight ??= _frontend.CreateInflight(_transmit.Ring(_frontend.Features));
        _frontend.SetInflight(_inflight);
        _frontend.StartRing(_receive.Ring(_frontend.Features));
        _frontend.StartRing(_transmit.Ring(_frontend.Features));
        // What is in the ring from before nobody will kick for otherwise.
        _kick.Signal();
    }

    /// <summary>The back-end is gone.</summary>
    public void Disconnect() => _frontend!.Dispose();

    /// <summary>Goes round once: takes what was used, offers buffers, sends frames.</summary>
    /// <param name="sends">Whether to send frames beside taking what comes.</param>
    public void Turn(bool sends)
    {
        while (_transmit.Reap(_completions).Count != 0)
        {
        }

        for (List<(int Slot, uint Written)> came = _receive.Reap(_completions); came.Count != 0; came = _receive.Reap(_completions))
        {
            foreach ((int slot, uint written) in came)
            {
                // A buffer that a dead back-end had taken comes back unused.
                if (written != 0)
                {
                    Read(_receive.Buffer(slot), written);
                }
            }
        }

        while (_receive.TryAdd(FrameBytes, DeviceAccess.Write) is not null)
        {
        }

        while (sends && Outstanding < MostSent && _transmit.TryAdd(FrameBytes, DeviceAccess.Read) is { } slot)
        {
            Write(_transmit.Buffer(slot), Number());
        }

        if (_receive.Queue.Publish() | _transmit.Queue.Publish())
        {
            _kick.Signal();
        }
    }

    /// <summary>Sends once more what the device has had, and what did not come. Everything sent was used.</summary>
    public void SendMissing()
    {
        foreach (long number in _missing.Order())
        {
            _again.Enqueue(number);
        }

        while (_again.Count != 0)
        {
            if (Outstanding < MostSent && _transmit.TryAdd(FrameBytes, DeviceAccess.Read) is { } slot)
            {
                SentAgain++;
                Write(_transmit.Buffer(slot), _again.Dequeue());
            }

            Turn(sends: false);
        }
    }

    public void Dispose()
    {
        _frontend?.Dispose();
        _inflight?.Dispose();
        _region.Dispose();
        _kick.Dispose();
    }

    private static void Write(Span<byte> frame, long number)
    {
        frame.Clear();
        for (int i = NetHeader.Bytes; i < frame.Length; i++)
        {
            frame[i] = unchecked((byte)((number * 31) + i));
        }

        MemoryMarshal.Write(frame[(NetHeader.Bytes + NumberAt)..], number);
    }

    private long Number()
    {
        _missing.Add(_next);
        return _next++;
    }

    private void Read(Span<byte> frame, uint written)
    {
        long number = MemoryMarshal.Read<long>(frame[(NetHeader.Bytes + NumberAt)..]);
        byte[] expected = new byte[frame.Length];
        Write(expected, number);
        if (written != frame.Length || number < 0 || number >= _next || !frame[NetHeader.Bytes..].SequenceEqual(expected.AsSpan(NetHeader.Bytes)))
        {
            throw new InvalidOperationException($"a frame of {written} bytes that was never sent came, with the number {number}");
        }

        Repeated += _missing.Remove(number) ? 0 : 1;
    }

    /// <summary>A ring and what the device has of it.</summary>
    private sealed class Account
    {
        private readonly RestartGuest _guest;
        private readonly int _index;
        private readonly Stack<int> _free = new(Enumerable.Range(0, RingSize));

        public Account(RestartGuest guest, int index)
        {
            _guest = guest;
            _index = index;
            int bytes = DriverQueue.BytesFor(RingSize, guest._features, 0);
            ulong offset = (ulong)index * RingBytes / 2;
            Queue = DriverQueue.Create(
                RingSize, guest._features, new PinnedBuffer(new Iova(GuestBase + offset), guest._region.Host + offset, bytes));
        }

        public DriverQueue Queue { get; }

        /// <summary>By descriptor: the buffer that the device has.</summary>
        public Dictionary<ushort, int> Slots { get; } = [];

        public Span<byte> Buffer(int slot) => Place(slot).Span;

        public int? TryAdd(int length, DeviceAccess access)
        {
            if (_free.Count == 0 || !Queue.TryAdd([new DmaSegment(Place(_free.Peek()).Slice(0, NetHeader.Bytes + length), access)], out ushort id))
            {
                return null;
            }

            int slot = _free.Pop();
            if (!Slots.TryAdd(id, slot))
            {
                throw new InvalidOperationException($"ring {_index}: descriptor {id} is given twice");
            }

            return slot;
        }

        public List<(int Slot, uint Written)> Reap(Completion[] completions)
        {
            var taken = new List<(int, uint)>();
            int count = Queue.Reap(completions);
            if (Queue.Error != RingError.None)
            {
                throw new InvalidOperationException($"ring {_index}: {Queue.Error}");
            }

            foreach (Completion completion in completions[..count])
            {
                if (!Slots.Remove(completion.Id, out int slot))
                {
                    throw new InvalidOperationException($"ring {_index}: descriptor {completion.Id} was used, which the device does not have");
                }

                _free.Push(slot);
                taken.Add((slot, completion.Written));
            }

            return taken;
        }

        public FrontendRing Ring(VirtioFeatures negotiated)
        {
            ulong shift = unchecked(_guest._region.Host.Value - GuestBase);
            FrontendAddress Address(BusAddress address) => new(unchecked(address.Value + shift));
            return new FrontendRing(
                _index, RingSize, Address(Queue.DescriptorArea), Address(Queue.DriverArea), Address(Queue.DeviceArea), negotiated, _guest._kick, null);
        }

        private PinnedBuffer Place(int slot)
        {
            ulong offset = RingBytes + ((ulong)((_index * RingSize) + slot) * SlotBytes);
            return new PinnedBuffer(new Iova(GuestBase + offset), _guest._region.Host + offset, NetHeader.Bytes + FrameBytes);
        }
    }
}
