namespace Vfio.Virtio.Tests;

/// <summary>What a correct pair of queues does, kept beside it: see <see cref="BothSidesTests"/>.</summary>
internal sealed class RingModel(RingPair pair, Random random, int maxChain, int bufferBytes)
{
    private sealed record Work(int Number, int Readable, int Writable)
    {
        public uint Written { get; set; }
    }

    private readonly Dictionary<ushort, Work> _byId = [];
    private readonly Queue<Work> _published = new();
    private readonly Queue<Work> _added = new();
    private readonly Queue<Work> _usedOrder = new();
    private readonly List<(DescriptorChain Chain, Work Work)> _taken = [];
    private readonly List<Work> _completed = [];
    private readonly Stack<int> _freeBuffers = new(Enumerable.Range(0, (pair.Driver.Size + 1) * maxChain).Reverse());
    private readonly Dictionary<ushort, int[]> _buffers = [];
    private readonly HostSegment[] _segments = new HostSegment[256];
    private int _number;
    private bool _deviceSleeps;
    private bool _driverSleeps;
    private int _reapable;

    public int Finished { get; private set; }

    public void DriverAdds()
    {
        int length = 1 + random.Next(maxChain);
        int readable = pair.Device.Use switch
        {
            BufferUse.OnlyReads => length,
            BufferUse.OnlyWrites => 0,
            _ => random.Next(length + 1),
        };
        int[] buffers = [.. Enumerable.Range(0, length).Select(_ => _freeBuffers.Pop())];
        var chain = new DmaSegment[length];
        for (int i = 0; i < length; i++)
        {
            chain[i] = pair.Segment(
                buffers[i] * bufferBytes, bufferBytes, i < readable ? DeviceAccess.Read : DeviceAccess.Write);
            chain[i].Buffer.Span.Fill(unchecked((byte)(_number + i)));
        }

        if (!pair.Driver.TryAdd(chain, out ushort id))
        {
            Assert.IsGreaterThan(0, pair.Driver.Outstanding, "an empty queue takes any chain");
            foreach (int buffer in buffers)
            {
                _freeBuffers.Push(buffer);
            }

            return;
        }

        var work = new Work(_number++, readable, length - readable);
        Assert.IsTrue(_byId.TryAdd(id, work), $"id {id} was given out twice");
        _buffers[id] = buffers;
        _added.Enqueue(work);
        if (random.Next(2) == 0)
        {
            DriverPublishes();
        }
    }

    public void DriverPublishes()
    {
        bool any = _added.Count != 0;
        while (_added.TryDequeue(out Work? work))
        {
            _published.Enqueue(work);
        }

        bool kick = pair.Driver.Publish();
        Assert.IsFalse(kick && !any, "nothing was published");
        if (any && _deviceSleeps)
        {
            Assert.IsTrue(kick, "the device sleeps and was not woken");
            _deviceSleeps = false;
        }
    }

    public void DeviceTakes()
    {
        if (_deviceSleeps)
        {
            return;
        }

        Span<DescriptorChain> chains = new DescriptorChain[1 + random.Next(32)];
        int count = pair.Device.Peek(ref pair.Translator, chains, _segments);
        Assert.AreEqual(RingError.None, pair.Device.Error);
        Assert.AreEqual(Math.Min(chains.Length, _published.Count), count);
        if (count == 0)
        {
            if (random.Next(2) == 0)
            {
                Assert.IsFalse(pair.Device.EnableNotifications(), "there is nothing");
                _deviceSleeps = true;
            }
            else
            {
                pair.Device.DisableNotifications();
            }

            return;
        }

        int consumed = random.Next(count + 1);
        foreach (DescriptorChain chain in chains[..consumed])
        {
            Work work = _published.Dequeue();
            Check(chain, work);
            _taken.Add((chain, work));
        }

        pair.Device.Consume(chains[..consumed]);
        if (consumed < count)
        {
            Assert.IsTrue(pair.Device.EnableNotifications(), "there is one already");
        }
    }

    public void DeviceGivesBack()
    {
        bool inOrder = pair.Features.HasFlag(VirtioFeatures.InOrder);
        int count = random.Next(Math.Min(_taken.Count, 8) + 1);
        bool readOnly = true;
        var used = new List<UsedChain>();
        for (int i = 0; i < count; i++)
        {
            int pick = inOrder ? 0 : random.Next(_taken.Count);
            (DescriptorChain chain, Work work) = _taken[pick];
            _taken.RemoveAt(pick);
            readOnly &= work.Writable == 0;
            work.Written = (uint)random.Next((work.Writable * bufferBytes) + 1);
            used.Add(chain.Used(work.Written));
            _completed.Add(work);
        }

        if (readOnly)
        {
            pair.Device.CompleteReadOnly([.. used]);
        }
        else
        {
            pair.Device.Complete([.. used]);
        }

        if (random.Next(3) != 0)
        {
            DevicePublishes();
        }
    }

    public void DriverReaps()
    {
        if (_driverSleeps)
        {
            return;
        }

        Span<Completion> completions = new Completion[1 + random.Next(20)];
        int count = pair.Driver.Reap(completions);
        Assert.AreEqual(RingError.None, pair.Driver.Error);
        Assert.AreEqual(Math.Min(completions.Length, _reapable), count);
        _reapable -= count;
        foreach (Completion completion in completions[..count])
        {
            Assert.IsTrue(_byId.Remove(completion.Id, out Work? work), $"id {completion.Id} came back twice");
            Assert.AreSame(_usedOrder.Dequeue(), work, "in used order");
            Assert.AreEqual(work.Written, completion.Written);
            Assert.IsTrue(_buffers.Remove(completion.Id, out int[]? buffers));
            foreach (int buffer in buffers)
            {
                _freeBuffers.Push(buffer);
            }

            Finished++;
        }

        if (count == 0 && random.Next(2) == 0)
        {
            Assert.IsFalse(pair.Driver.EnableNotifications(), "there is nothing");
            _driverSleeps = true;
        }
        else if (count == 0)
        {
            pair.Driver.DisableNotifications();
        }
        else if (_reapable != 0)
        {
            Assert.IsTrue(pair.Driver.EnableNotifications(), "there is one already");
        }
    }

    public void Drain()
    {
        DriverPublishes();
        for (int turn = 0; _byId.Count != 0; turn++)
        {
            Assert.IsLessThan(100_000, turn, "work is stuck");
            DeviceTakes();
            DeviceGivesBack();
            DevicePublishes();
            DriverReaps();
        }

        Assert.AreEqual(0, pair.Driver.Outstanding);
        Assert.AreEqual(pair.Driver.Size, pair.Driver.FreeDescriptors);
        Assert.AreEqual(0, pair.Device.Outstanding);
    }

    private void DevicePublishes()
    {
        bool any = _completed.Count != 0;
        foreach (Work work in _completed)
        {
            _usedOrder.Enqueue(work);
            _reapable++;
        }

        _completed.Clear();
        bool call = pair.Device.Publish();
        Assert.IsFalse(call && !any, "nothing was published");
        if (any && _driverSleeps)
        {
            Assert.IsTrue(call, "the driver sleeps and was not woken");
            _driverSleeps = false;
        }
    }

    private void Check(in DescriptorChain chain, Work work)
    {
        Assert.AreEqual((ulong)(work.Readable * bufferBytes), chain.ReadableLength);
        Assert.AreEqual((ulong)(work.Writable * bufferBytes), chain.WritableLength);
        int offset = 0;
        foreach (HostSegment segment in chain.Readable(_segments))
        {
            foreach (byte value in segment.Span)
            {
                Assert.AreEqual(unchecked((byte)(work.Number + (offset++ / bufferBytes))), value);
            }
        }

        Assert.AreEqual(work.Readable * bufferBytes, offset);
        foreach (HostSegment segment in chain.Writable(_segments))
        {
            foreach (byte value in segment.Span)
            {
                Assert.AreEqual(unchecked((byte)(work.Number + (offset++ / bufferBytes))), value);
            }
        }

        Assert.AreEqual((work.Readable + work.Writable) * bufferBytes, offset);
    }
}
