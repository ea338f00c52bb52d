using System.Runtime.InteropServices;
using Vfio.Virtio;

namespace Vfio.Litmus;

/// <summary>One side publishes and decides whether the other wants to be notified, while the other asks to be notified and looks
/// once more before it would sleep. If the one does not notify and the other saw nothing, both wait for ever.</summary>
internal sealed unsafe class NotificationRace : IDisposable
{
    private const int Size = 256;
    private const ulong IovaOffset = 0x1000_0000;

    private readonly void* _memory;
    private readonly DriverQueue _driver;
    private readonly DeviceQueue _device;
    private readonly DmaSegment[] _chain;
    private readonly DescriptorChain[] _chains = new DescriptorChain[1];
    private readonly HostSegment[] _segments = new HostSegment[1];
    private readonly UsedChain[] _used = new UsedChain[1];
    private readonly Completion[] _completions = new Completion[1];
    private bool _notifies;
    private bool _seesMore;

    public NotificationRace(VirtioFeatures features)
    {
        int ring = DriverQueue.BytesFor(Size, features, 0);
        // SAFETY: freed by Dispose, after both threads ended.
        _memory = NativeMemory.AlignedAlloc((nuint)ring + 4096, 4096);
        NativeMemory.Clear(_memory, (nuint)ring + 4096);
        var address = new HostAddress((ulong)_memory);
        var buffer = new PinnedBuffer(new Iova(address.Value + IovaOffset), address, ring + 4096);
        _driver = DriverQueue.Create(Size, features, buffer.Slice(0, ring));
        _device = DeviceQueue.Create(Size, _driver.Addresses, features);
        _chain = [new DmaSegment(buffer.Slice(ring, 64), DeviceAccess.Read)];
    }

    /// <summary>The device publishes used chains; the driver asks for calls.</summary>
    public RaceCount RunCall(TimeSpan time, long enough)
    {
        GiveToDevice();
        return new TwoThreads().Run(
            () => _notifies = _device.Publish(),
            () => _seesMore = _driver.EnableNotifications(),
            () =>
            {
                bool lost = !_notifies && !_seesMore;
                if (_driver.Reap(_completions) != 1)
                {
                    throw new InvalidOperationException("the completion is not there after the round");
                }

                GiveToDevice();
                return lost;
            },
            time,
            enough);
    }

    /// <summary>The driver publishes available chains; the device asks for kicks.</summary>
    public RaceCount RunKick(TimeSpan time, long enough)
    {
        Add();
        return new TwoThreads().Run(
            () => _notifies = _driver.Publish(),
            () => _seesMore = _device.EnableNotifications(),
            () =>
            {
                bool lost = !_notifies && !_seesMore;
                Take();
                _device.Publish();
                if (_driver.Reap(_completions) != 1)
                {
                    throw new InvalidOperationException("the completion is not there after the round");
                }

                Add();
                return lost;
            },
            time,
            enough);
    }

    public void Dispose() => NativeMemory.AlignedFree(_memory);

    private void GiveToDevice()
    {
        Add();
        _driver.Publish();
        Take();
    }

    private void Add()
    {
        if (!_driver.TryAdd(_chain, out _))
        {
            throw new InvalidOperationException("the ring is full");
        }
    }

    private void Take()
    {
        var translator = default(Shifted);
        if (_device.Peek(ref translator, _chains, _segments) != 1)
        {
            throw new InvalidOperationException($"the chain is not there: {_device.Error}");
        }

        _device.Consume(_chains);
        _used[0] = _chains[0].Used(0);
        _device.Complete(_used);
    }

    private struct Shifted : ITranslator
    {
        public readonly TranslationStatus Translate(
            BusAddress address, uint length, DeviceAccess access, out HostAddress host, out uint usable)
        {
            host = new HostAddress(address.Value - IovaOffset);
            usable = length;
            return TranslationStatus.Translated;
        }

        public readonly bool TryTranslate(BusAddress address, uint length, DeviceAccess access, out HostAddress host)
        {
            host = new HostAddress(address.Value - IovaOffset);
            return true;
        }

        public readonly void CountAtHand(int times)
        {
        }
    }
}
