using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.VhostUser.Tests.Fuzz;

/// <summary>Random rings in random memory, polled while they change. Both regions lie between pages that nobody may touch, and
/// follow each other for the guest but not here, so that whatever crosses their border must be found out.</summary>
internal sealed unsafe class RingFuzzer : IDisposable
{
    private const ulong Length = 64 << 10;
    private const ulong First = 0x10000;
    private const int DriverOffset = 0x4000;
    private const int DeviceOffset = 0x8000;

    private readonly FileDescriptor[] _files = [MemoryFile.Create("low", Length), MemoryFile.Create("high", Length)];
    private readonly GuestMemoryRegion[] _regions;
    private readonly GuestMemory _memory;
    private readonly PinnedPool _pool;
    private readonly FrameBatch _batch;

    public RingFuzzer()
    {
        _regions = [Map(0), Map(1)];
        _memory = GuestMemory.Of(_regions);
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

    public void RunOnce(Random random)
    {
        bool packed = random.Next(2) == 0;
        VirtioFeatures features = VirtioFeatures.Version1 | (packed ? VirtioFeatures.RingPacked : 0)
            | (random.Next(4) != 0 ? VirtioFeatures.RingIndirectDesc : 0) | (random.Next(2) == 0 ? VirtioFeatures.RingEventIdx : 0)
            | (random.Next(2) == 0 ? VirtioFeatures.InOrder : 0) | (VirtioFeatures)(random.Next(2) == 0 ? NetFeatures.MrgRxbuf : 0)
            | (VirtioFeatures)(random.Next(2) == 0 ? NetFeatures.Csum | NetFeatures.HostTso4 : 0);
        int size = packed ? random.Next(1, 257) : 1 << random.Next(0, 9);
        Fill(random);
        HostAddress start = _regions[0].Host;
        bool transmits = random.Next(2) == 0;
        NetQueue queue = NetQueue.Create(
            new VringConfiguration
            {
                Index = transmits ? 1 : 0,
                Size = size,
                Features = features,
                Addresses = new RingAddresses(start, start + DriverOffset, start + DeviceOffset),
                Memory = _memory,
                Position = packed ? new VringPosition(0x8000, 0x8000) : default,
                Enabled = true,
            },
            new NetQueueCounters());
        bool races = random.Next(8) == 0;
        using var raced = new ManualResetEventSlim(!races);
        bool stop = false;
        int seed = random.Next();
        if (races)
        {
            ThreadPool.UnsafeQueueUserWorkItem(_ =>
            {
                var other = new Random(seed);
                while (!Volatile.Read(ref stop))
                {
                    Change(other, packed, size);
                }

                raced.Set();
            }, null);
        }

        for (int poll = 0; poll < 20; poll++)
        {
            Change(random, packed, size);
            if (transmits)
            {
                int taken = random.Next(4) == 0 ? queue.Discard() : queue.Dequeue(_batch);
                Assert.IsLessThanOrEqualTo(FrameBatch.Capacity, taken);
            }
            else
            {
                for (int i = random.Next(1, 33); i > 0; i--)
                {
                    _batch.Add(random.Next(8) == 0 ? random.Next(14, Frame.MaxLength) : random.Next(14, 2000));
                }

                queue.Enqueue(_batch);
            }

            _batch.Clear();
            if (random.Next(4) == 0)
            {
                queue.EnableNotifications();
                queue.DisableNotifications();
            }

            Polls++;
        }

        Volatile.Write(ref stop, true);
        raced.Wait();
        Errors[queue.Error] = Errors.GetValueOrDefault(queue.Error) + 1;
    }

    public void Dispose()
    {
        _batch.Dispose();
        _pool.Dispose();
        foreach (GuestMemoryRegion region in _regions)
        {
            region.Dispose();
        }

        foreach (FileDescriptor file in _files)
        {
            file.Dispose();
        }
    }

    private static ulong Address(Random random) => random.Next(16) switch
    {
        0 => (ulong)random.NextInt64(),
        1 => First + (2 * Length) - (ulong)random.Next(64),
        2 => ulong.MaxValue - (ulong)random.Next(8192),
        3 => First + Length - (ulong)random.Next(200),
        4 => First - (ulong)random.Next(64),
        _ => First + (ulong)random.Next((int)(2 * Length)),
    };

    private static uint Bytes(Random random) => random.Next(12) switch
    {
        0 => 0,
        1 => uint.MaxValue,
        2 => (uint)random.Next(),
        3 => (uint)random.Next(1, 20),
        4 => (uint)random.Next(1, 40) * 16,
        _ => (uint)random.Next(12, 2000),
    };

    private GuestMemoryRegion Map(int index) => GuestMemoryRegion.Map(
        new GuestPhysicalAddress(First + ((ulong)index * Length)), new FrontendAddress(First + ((ulong)index * Length)), Length,
        _files[index], default);

    private void Fill(Random random)
    {
        foreach (GuestMemoryRegion region in _regions)
        {
            for (int i = 0; i < (int)Length / 16; i++)
            {
                Write(random, region.Host + ((ulong)i * 16), random.Next(2) == 0, 256);
            }
        }

        // Ring indices start at 0, as a driver leaves them.
        new Span<byte>((void*)(_regions[0].Host.Value + DriverOffset), 4).Clear();
        new Span<byte>((void*)(_regions[0].Host.Value + DeviceOffset), 4).Clear();
    }

    // A few writes of a driver that does what it likes: descriptors, the index, entries, bytes.
    private void Change(Random random, bool packed, int size)
    {
        HostAddress start = _regions[0].Host;
        for (int i = random.Next(8); i >= 0; i--)
        {
            Write(random, start + ((ulong)random.Next(size) * 16), packed, size);
        }

        var driver = (ushort*)(start.Value + DriverOffset);
        if (!packed)
        {
            int step = random.Next(16) == 0 ? random.Next(65536) : random.Next(Math.Min(size, 40) + 1);
            driver[1] = unchecked((ushort)(driver[1] + step));
            for (int i = random.Next(8); i > 0; i--)
            {
                driver[2 + random.Next(size)] = (ushort)(random.Next(16) == 0 ? random.Next(65536) : random.Next(size));
            }
        }

        GuestMemoryRegion region = _regions[random.Next(2)];
        Write(random, region.Host + ((ulong)random.Next((int)Length / 16) * 16), packed, size);
    }

    private static void Write(Random random, HostAddress at, bool packed, int size)
    {
        ulong flags = (ulong)(random.Next(6) switch { 0 => 1, 1 => 2, 2 => 4, 3 => random.Next(8), _ => 0 });
        ulong next = (ulong)(random.Next(12) == 0 ? random.Next(65536) : random.Next(size));
        ulong upper = packed
            ? Bytes(random) | (next << 32) | ((flags | (random.Next(4) == 0 ? 0x8000u : 0x80u)) << 48)
            : Bytes(random) | (flags << 32) | (next << 48);
        var words = (ulong*)at.Value;
        Volatile.Write(ref words[0], Address(random));
        Volatile.Write(ref words[1], upper);
    }
}
