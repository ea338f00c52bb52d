using System.Runtime.InteropServices;
using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.Testing;

/// <summary>A virtio-net device over PCI: both its queues are the product's own device side, and it reaches memory through the
/// simulated IOMMU. It works on the thread that rings its doorbell or delivers a frame.</summary>
public sealed class SimVirtioNet : SimVirtioPciDevice
{
    private const int ReceiveQueue = 0;
    private const int TransmitQueue = 1;

    private readonly DeviceQueue?[] _queues = new DeviceQueue?[2];
    private readonly byte[] _configuration = new byte[12];
    private readonly DescriptorChain[] _chains = new DescriptorChain[32];
    private readonly HostSegment[] _segments = new HostSegment[1024];
    private readonly UsedChain[] _used = new UsedChain[32];
    private readonly Queue<byte[]> _waiting = new();

    public SimVirtioNet(PciAddress address, SimVirtioNetOptions? options = null)
        : this(options ?? new SimVirtioNetOptions(), address)
    {
    }

    private SimVirtioNet(SimVirtioNetOptions options, PciAddress address)
        : base(
            address,
            type: 1,
            (ulong)options.Features,
            [(ushort)options.QueueSizes.Receive, (ushort)options.QueueSizes.Transmit],
            options.MsixVectors,
            options.MapsDoorbells)
    {
        Options = options;
        MemoryMarshal.Write(_configuration, options.Mac);
        MemoryMarshal.Write(_configuration.AsSpan(6), virtio_net.VIRTIO_NET_S_LINK_UP);
        MemoryMarshal.Write(_configuration.AsSpan(8), (ushort)1);
        MemoryMarshal.Write(_configuration.AsSpan(10), options.Mtu);
    }

    public SimVirtioNetOptions Options { get; }

    /// <summary>Frames that the driver sent, with their header.</summary>
    public IList<byte[]> Sent { get; } = [];

    /// <summary>Whether it keeps what the driver sent.</summary>
    public bool KeepsSent { get; set; } = true;

    /// <summary>Frames that the driver sent so far.</summary>
    public int SentCount { get; private set; }

    /// <summary>Frames that wait for buffers of the driver.</summary>
    public int Waiting => _waiting.Count;

    /// <summary>Whether the link is up, as the configuration says.</summary>
    public bool IsLinkUp
    {
        get => _configuration[6] != 0;
        set
        {
            _configuration[6] = value ? (byte)1 : (byte)0;
            ConfigurationGeneration++;
        }
    }

    /// <summary>A frame comes in over the wire.</summary>
    public void Deliver(byte[] frame)
    {
        _waiting.Enqueue(frame);
        DeliverWaiting();
    }

    /// <summary>Does what there is to do in both queues; a doorbell does it too, unless the device is told to be silent.</summary>
    public void Serve()
    {
        TakeSent();
        DeliverWaiting();
    }

    protected override void OnQueueEnabled(SimVirtqueue queue)
    {
        ArgumentNullException.ThrowIfNull(queue);
        _queues[queue.Index] = new SimTranslator(this).Open(
            queue.Size, (VirtioFeatures)DriverFeatures, queue.Descriptors, queue.Driver, queue.Device);
    }

    protected override void OnNotify(SimVirtqueue queue, uint value)
    {
        if (!Options.IsSilent)
        {
            Serve();
        }
    }

    // What is on the wire stays there.
    protected override void OnStop() => _queues.AsSpan().Clear();

    protected override uint OnReadConfiguration(ulong offset, int width)
    {
        uint value = 0;
        for (int i = 0; i < width; i++)
        {
            int at = (int)offset + i;
            value |= (at < _configuration.Length ? (uint)_configuration[at] : 0) << (8 * i);
        }

        return value;
    }

    private void TakeSent()
    {
        if (_queues[TransmitQueue] is not { } queue)
        {
            return;
        }

        var translator = new SimTranslator(this);
        do
        {
            int count;
            while ((count = queue.Peek(ref translator, _chains, _segments)) != 0)
            {
                queue.Consume(_chains.AsSpan(0, count));
                for (int i = 0; i < count; i++)
                {
                    Keep(_chains[i].Readable(_segments));
                    _used[i] = Lie(_chains[i].Used(0));
                }

                queue.Complete(_used.AsSpan(0, count));
                Publish(queue, TransmitQueue);
            }

            Check(queue);
        }
        while (queue.EnableNotifications());
    }

    private void Keep(ReadOnlySpan<HostSegment> segments)
    {
        SentCount++;
        if (!KeepsSent && !Options.IsLoop)
        {
            return;
        }

        var frame = new List<byte>();
        foreach (HostSegment segment in segments)
        {
            frame.AddRange(segment.Span);
        }

        if (KeepsSent)
        {
            Sent.Add([.. frame]);
        }

        if (Options.IsLoop)
        {
            byte[] sent = [.. frame.Skip(NetHeader.Bytes)];
            if ((Options.OnWire is { } wire ? wire(sent) : sent) is { } arriving)
            {
                _waiting.Enqueue(arriving);
            }
        }
    }

    private void DeliverWaiting()
    {
        if (_queues[ReceiveQueue] is not { } queue || !IsRunning)
        {
            return;
        }

        bool more = true;
        while (more)
        {
            int before = _waiting.Count;
            while (_waiting.TryPeek(out byte[]? frame) && TryDeliver(queue, frame))
            {
                _ = _waiting.Dequeue();
            }

            Check(queue);
            // A frame may wait for more buffers than there are: those that there are do not help it.
            more = queue.EnableNotifications() && _waiting.Count != 0 && _waiting.Count != before;
        }
    }

    private bool TryDeliver(DeviceQueue queue, byte[] frame)
    {
        var translator = new SimTranslator(this);
        int available = queue.Peek(ref translator, _chains, _segments);
        bool merges = HasFeature(virtio_net.VIRTIO_NET_F_MRG_RXBUF);
        int total = NetHeader.Bytes + frame.Length;
        int pieces = 0;
        for (int room = 0; room < total; pieces++)
        {
            if (pieces == available || (pieces == 1 && !merges))
            {
                return false;
            }

            room += (int)_chains[pieces].WritableLength;
        }

        byte[] bytes = new byte[total];
        var header = new NetHeader { BufferCount = (ushort)(Options.BuffersOf?.Invoke(pieces) ?? pieces) };
        MemoryMarshal.Write(bytes, header);
        frame.CopyTo(bytes, NetHeader.Bytes);
        int done = 0;
        for (int i = 0; i < pieces; i++)
        {
            int start = done;
            foreach (HostSegment segment in _chains[i].Writable(_segments))
            {
                int part = (int)Math.Min(segment.Length, (uint)(total - done));
                bytes.AsSpan(done, part).CopyTo(segment.Span);
                done += part;
            }

            uint written = (uint)(done - start);
            _used[i] = Lie(_chains[i].Used(Options.LengthOf?.Invoke(written) ?? written));
        }

        queue.Consume(_chains.AsSpan(0, pieces));
        queue.Complete(_used.AsSpan(0, pieces));
        Publish(queue, ReceiveQueue);
        return true;
    }

    private UsedChain Lie(UsedChain used) => Options.IdOf is { } id ? used with { Id = id(used.Id) } : used;

    private void Publish(DeviceQueue queue, int index)
    {
        if (queue.Publish())
        {
            InterruptQueue(index);
        }
    }

    private static void Check(DeviceQueue queue)
    {
        if (queue.Error != RingError.None)
        {
            throw new InvalidOperationException($"the driver broke the ring: {queue.Error}");
        }
    }
}
