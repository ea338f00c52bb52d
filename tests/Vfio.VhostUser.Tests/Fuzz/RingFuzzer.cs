using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.VhostUser.Tests.Fuzz;

/// <summary>Random rings in random memory, polled while they change: of both layouts, with and without an IOTLB, a record of what is
/// in flight and a dirty log, all of them the guest's to write.</summary>
internal sealed class RingFuzzer : IDisposable
{
    private readonly HostileGuest _guest = new();
    private readonly HostileRecord _record = new();
    private readonly FileDescriptor _logFile = MemoryFile.Create("log", 8192);
    private readonly PinnedPool _pool;
    private readonly FrameBatch _batch;

    public RingFuzzer()
    {
        _pool = PinnedPool.Create(new PinnedPoolOptions
        {
            Name = "fuzz",
            Size = FrameBatch.Capacity * FrameBatch.BufferSize,
            Backings = [MemoryBacking.Pages4KiB],
            BufferSize = FrameBatch.BufferSize,
        });
        _batch = new FrameBatch(_pool);
    }

    /// <summary>Polls of rings so far.</summary>
    public long Polls { get; private set; }

    /// <summary>How rings ended.</summary>
    public Dictionary<RingError, long> Errors { get; } = [];

    /// <summary>What was seen beside: translations, records believed and not, logs.</summary>
    public Dictionary<string, long> Seen { get; } = [];

    public void RunOnce(Random random)
    {
        bool packed = random.Next(2) == 0;
        VirtioFeatures features = VirtioFeatures.Version1 | (packed ? VirtioFeatures.RingPacked : 0)
            | (random.Next(4) != 0 ? VirtioFeatures.RingIndirectDesc : 0) | (random.Next(2) == 0 ? VirtioFeatures.RingEventIdx : 0)
            | (random.Next(2) == 0 ? VirtioFeatures.InOrder : 0) | (VirtioFeatures)(random.Next(2) == 0 ? NetFeatures.MrgRxbuf : 0)
            | (VirtioFeatures)(random.Next(2) == 0 ? NetFeatures.Csum | NetFeatures.HostTso4 : 0);
        int size = packed ? random.Next(1, 257) : 1 << random.Next(0, 9);
        bool isTranslated = random.Next(2) == 0;
        bool transmits = random.Next(2) == 0;
        _guest.Usual = transmits ? 0 : virtio_ring.VRING_DESC_F_WRITE;
        _guest.Place(random, size, features, closes: isTranslated);
        using IotlbFuzz? iotlb = isTranslated ? new IotlbFuzz(_guest, random) : null;
        using DirtyLog? log = random.Next(3) == 0 ? MapLog(random) : null;
        RingPosition position = RingPosition.Start(features);
        RingAddresses ring = random.Next(4) == 0 ? _guest.Scattered(size, features) : _guest.Addresses;
        InflightRecord? record = random.Next(3) == 0 ? _record.Make(random, transmits ? 1 : 0, size, packed) : null;
        using var race = new Race(random, this, iotlb, packed, size);
        if (record is not null)
        {
            position = record.Recover(ring, position, out string? doubt);
            Count(doubt is null ? "records believed" : "records doubted");
        }

        var configuration = new VringConfiguration
        {
            Index = transmits ? 1 : 0,
            Size = size,
            Features = features,
            Addresses = ring,
            Memory = _guest.Memory,
            Iotlb = iotlb?.View,
            Position = position,
            Enabled = true,
            Inflight = record,
            Log = log,
            LoggedAreas = log is null ? []
                : [(new GuestPhysicalAddress(HostileGuest.Address(random)), RingAddresses.DeviceBytes(size, features))],
        };
        var counters = new NetQueueCounters();
        NetQueue queue = transmits ? TransmitQueue.Create(configuration, counters) : ReceiveQueue.Create(configuration, counters);
        for (int poll = 0; poll < 20; poll++)
        {
            Change(random, iotlb, packed, size);
            Poll(random, queue);
        }

        Count(isTranslated ? "translated" : "plain");
        Errors[queue.Error] = Errors.GetValueOrDefault(queue.Error) + 1;
    }

    public void Dispose()
    {
        _batch.Dispose();
        _pool.Dispose();
        _logFile.Dispose();
        _record.Dispose();
        _guest.Dispose();
    }

    private void Poll(Random random, NetQueue queue)
    {
        if (queue is TransmitQueue transmit)
        {
            int taken = random.Next(4) == 0 ? transmit.Discard() : transmit.Dequeue(_batch);
            Assert.IsLessThanOrEqualTo(FrameBatch.Capacity, taken);
        }
        else
        {
            for (int i = random.Next(1, 33); i > 0; i--)
            {
                _batch.Add(random.Next(8) == 0 ? random.Next(14, Frame.MaxLength) : random.Next(14, 2000));
            }

            ((ReceiveQueue)queue).Enqueue(_batch);
        }

        _batch.Clear();
        if (random.Next(4) == 0)
        {
            queue.EnableNotifications();
            queue.DisableNotifications();
        }

        Polls++;
    }

    private void Change(Random random, IotlbFuzz? iotlb, bool packed, int size)
    {
        _guest.Change(random, packed, size);
        _record.Change(random, size);
        iotlb?.Change(random);
    }

    private DirtyLog? MapLog(Random random)
    {
        ulong size = random.Next(6) == 0 ? HostileGuest.Address(random) : (ulong)random.Next(1, 8193);
        ulong offset = random.Next(6) == 0 ? HostileGuest.Address(random) : (ulong)random.Next(1024) * 8;
        try
        {
            DirtyLog log = DirtyLog.Map(_logFile, new FileOffset(offset), size);
            log.Mark(new GuestPhysicalAddress(HostileGuest.Address(random)), (ulong)random.NextInt64());
            log.Mark(new GuestPhysicalAddress(HostileGuest.Address(random)), ulong.MaxValue);
            Count("logs");
            return log;
        }
        catch (VhostUserProtocolException)
        {
            Count("logs refused");
            return null;
        }
    }

    private void Count(string what) => Seen[what] = Seen.GetValueOrDefault(what) + 1;

    /// <summary>In some runs another thread changes everything at the same time.</summary>
    private sealed class Race : IDisposable
    {
        private readonly ManualResetEventSlim? _ended;
        private bool _stop;

        public Race(Random random, RingFuzzer fuzzer, IotlbFuzz? iotlb, bool packed, int size)
        {
            if (random.Next(8) != 0)
            {
                return;
            }

            _ended = new ManualResetEventSlim();
            int seed = random.Next();
            ThreadPool.UnsafeQueueUserWorkItem(_ =>
            {
                var other = new Random(seed);
                while (!Volatile.Read(ref _stop))
                {
                    fuzzer.Change(other, iotlb, packed, size);
                }

                _ended.Set();
            }, null);
        }

        public void Dispose()
        {
            Volatile.Write(ref _stop, true);
            _ended?.Wait();
            _ended?.Dispose();
        }
    }
}
