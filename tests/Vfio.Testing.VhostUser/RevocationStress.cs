using System.Diagnostics;
using Vfio.Service;
using Vfio.VhostUser;
using Vfio.Virtio;

namespace Vfio.Testing.VhostUser;

/// <summary>A guest that sends itself frames without a pause, while pages are revoked all the time (unmapped, invalidated), or memory
/// and rings are taken away. Once that is acknowledged they are taken out of the back-end's address space: an access after the
/// acknowledgement ends the process.</summary>
public sealed class RevocationStress : IDisposable
{
    private const int RingSize = 256;
    private const int Chains = 28;
    private const ulong BufferBytes = 2 << 20;
    private const ulong IovaBase = 0x20_0000_0000;

    private readonly LocalBackend _backend;
    private readonly IotlbGuest _guest;
    private readonly Random _random;
    private readonly int _pagesOfFrame;
    private readonly DmaSegment[] _chain;
    private Exception? _failure;
    private bool _stop;
    private long _sent;
    private long _received;

    /// <summary>Sets it up.</summary>
    /// <param name="features">The layout.</param>
    /// <param name="pagesOfFrame">Pages that a frame lies in, 1 to 8: 8 keep a poller busy with one batch for longer than a
    /// revocation takes, 1 measures that.</param>
    /// <param name="seed">Of the order of pages.</param>
    /// <param name="wrap">Puts a defect between session and port.</param>
    public RevocationStress(
        VirtioFeatures features, int pagesOfFrame, int seed, Func<IVhostUserDevice, IVhostUserDevice>? wrap = null)
    {
        _pagesOfFrame = pagesOfFrame;
        _chain = new DmaSegment[pagesOfFrame];
        _random = new Random(seed);
        _backend = new LocalBackend(ForwardMode.Io, wrap);
        _guest = new IotlbGuest(_backend.Socket, features, BufferBytes, RingSize, hasIommu: true, separatesBuffers: true);
        for (int page = 0; page < Pages; page++)
        {
            _guest.Map(Range(page), Offset(page), Access(page));
        }
    }

    private int Pages => 2 * Chains * _pagesOfFrame;

    /// <summary>Frames that came round.</summary>
    public long Received => Volatile.Read(ref _received);

    /// <summary>Frames that were sent.</summary>
    public long Sent => Volatile.Read(ref _sent);

    /// <summary>Places of mappings that the back-end removed and a guard was put in.</summary>
    public long Occupied { get; private set; }

    /// <summary>What the back-end's IOTLB did.</summary>
    public IotlbCounters Counters => _backend.Session.Iotlb;

    /// <summary>Revokes pages under load.</summary>
    /// <param name="count">How many times.</param>
    /// <param name="latencies">Filled with the time of each, in ticks of the stopwatch; may be empty.</param>
    /// <returns>How many, which is <paramref name="count"/>: else the process would not have lived.</returns>
    public long Run(long count, Span<long> latencies = default)
    {
        GuardedPages guard = BackendsBuffers();
        Thread driver = Start();
        long done = 0;
        try
        {
            for (; done < count && Volatile.Read(ref _failure) is null; done++)
            {
                int page = _random.Next(Pages);
                long begin = Stopwatch.GetTimestamp();
                _guest.Iommu!.Unmap(Range(page));
                _guest.Frontend.Invalidate(Range(page));
                if (done < latencies.Length)
                {
                    latencies[(int)done] = Stopwatch.GetTimestamp() - begin;
                }

                guard.Close(Offset(page));
                Dwell();
                guard.Open(Offset(page));
                Restore(page);
            }
        }
        finally
        {
            Stop(driver);
        }

        return done;
    }

    /// <summary>Takes memory and rings away under load, and gives them back: the whole table, the region of buffers, a ring, both.</summary>
    /// <param name="count">How many times. After each, frames must come round again.</param>
    /// <returns>How many, which is <paramref name="count"/>.</returns>
    public long TakeAway(long count)
    {
        Thread driver = Start();
        long done = 0;
        try
        {
            for (; done < count; done++)
            {
                switch (done % 5)
                {
                    case 0:
                        ReplaceTable();
                        break;
                    case 1:
                        RemoveBuffers();
                        break;
                    case 2:
                        StopRings(0);
                        break;
                    case 3:
                        StopRings(1);
                        break;
                    default:
                        StopRings(0, 1);
                        break;
                }

                long before = Received;
                PortGuest.Until(() => Received > before + Chains || Volatile.Read(ref _failure) is not null, "no frame comes round any more");
                if (Volatile.Read(ref _failure) is not null)
                {
                    break;
                }
            }
        }
        finally
        {
            Stop(driver);
        }

        return done;
    }

    public void Dispose()
    {
        _guest.Dispose();
        _backend.Dispose();
    }

    private Thread Start()
    {
        var driver = new Thread(() => Volatile.Write(ref _failure, Drive())) { Name = "driver" };
        driver.Start();
        return driver;
    }

    private void Stop(Thread driver)
    {
        Volatile.Write(ref _stop, true);
        driver.Join();
        if (_failure is not null)
        {
            throw new InvalidOperationException($"the driver failed: {_failure.Message}", _failure);
        }
    }

    private GuardedPages BackendsRings() => new(_guest.Name, _guest.Region.Host, IotlbGuest.RingBytes);

    private GuardedPages BackendsBuffers() => new(_guest.BuffersName, _guest.Buffers.Host, BufferBytes);

    // The same memory, mapped anew: no translation and no ring address of before leads there.
    private void ReplaceTable()
    {
        GuardedPages rings = BackendsRings();
        GuardedPages buffers = BackendsBuffers();
        _guest.ShareMemory();
        Guard(rings);
        Guard(buffers);
        Dwell();
        rings.Leave();
        buffers.Leave();
    }

    private void RemoveBuffers()
    {
        GuardedPages buffers = BackendsBuffers();
        for (int page = 0; page < Pages; page++)
        {
            // What is answered from now on would be in no region.
            _guest.Iommu!.Unmap(Range(page));
        }

        _guest.Frontend.RemoveMemory(_guest.Buffers);
        Guard(buffers);
        Dwell();
        buffers.Leave();
        _guest.Frontend.AddMemory(_guest.Buffers);
        for (int page = 0; page < Pages; page++)
        {
            Restore(page);
        }
    }

    private void StopRings(params ReadOnlySpan<int> rings)
    {
        GuardedPages memory = BackendsRings();
        GuardedPages buffers = BackendsBuffers();
        Span<uint> positions = stackalloc uint[2];
        foreach (int ring in rings)
        {
            positions[ring] = _guest.Frontend.StopRing(ring);
            // The ring itself, and what only it uses.
            memory.Close((ulong)ring * (IotlbGuest.RingBytes / 2), IotlbGuest.RingBytes / 2);
            SetBuffers(buffers, ring, isOpen: false);
        }

        Dwell();
        foreach (int ring in rings)
        {
            SetBuffers(buffers, ring, isOpen: true);
            memory.Open((ulong)ring * (IotlbGuest.RingBytes / 2), IotlbGuest.RingBytes / 2);
            _guest.ResumeRing(ring, positions[ring]);
        }
    }

    // Those of transmit chains come first in memory.
    private void SetBuffers(GuardedPages buffers, int ring, bool isOpen)
    {
        ulong half = (ulong)Pages / 2 * 4096;
        ulong first = ring == 1 ? 0 : half;
        if (isOpen)
        {
            buffers.Open(first, half);
        }
        else
        {
            buffers.Close(first, half);
        }
    }

    private void Guard(GuardedPages place) => Occupied += place.Occupy() ? 1 : 0;

    private void Restore(int page)
    {
        _guest.Map(Range(page), Offset(page), Access(page));
        // Told without being asked: what missed meanwhile goes on at once.
        _guest.Frontend.Update(Range(page), _guest.AddressOf(Offset(page)), Access(page));
    }

    // Fresh IOVAs far from each other, and memory in the opposite order: no two pages merge.
    private static IovaRange Range(int page) => IovaRange.Of(new Iova(IovaBase + ((ulong)page << 16)), 4096);

    private ulong Offset(int page) => (ulong)(Pages - 1 - page) * 4096;

    // Chains of the receive ring first.
    private DmaAccess Access(int page) => page / _pagesOfFrame < Chains ? DmaAccess.Write : DmaAccess.Read;

    // Long enough for a batch that began before the revocation to come to the page.
    private void Dwell()
    {
        long end = Stopwatch.GetTimestamp() + (_random.Next(50) * Stopwatch.Frequency / 1_000_000);
        while (Stopwatch.GetTimestamp() < end)
        {
        }
    }

    private Exception? Drive()
    {
        try
        {
            var byId = new int[2][] { new int[RingSize], new int[RingSize] };
            for (int chain = 0; chain < 2 * Chains; chain++)
            {
                Add(chain, byId);
            }

            Publish(_guest.Receive);
            Publish(_guest.Transmit);
            var completions = new Completion[32];
            while (!Volatile.Read(ref _stop))
            {
                _received += Turn(_guest.Receive, byId[0], completions, byId);
                _sent += Turn(_guest.Transmit, byId[1], completions, byId);
                if (_guest.Receive.Error != RingError.None || _guest.Transmit.Error != RingError.None)
                {
                    throw new InvalidOperationException($"rings: {_guest.Receive.Error}, {_guest.Transmit.Error}");
                }
            }

            return null;
        }
        catch (Exception e) when (e is InvalidOperationException or ArgumentException)
        {
            return e;
        }
    }

    private int Turn(DriverQueue queue, int[] ids, Completion[] completions, int[][] byId)
    {
        int count = queue.Reap(completions);
        for (int i = 0; i < count; i++)
        {
            Add(ids[completions[i].Id], byId);
        }

        Publish(queue);
        return count;
    }

    private void Publish(DriverQueue queue)
    {
        if (queue.Publish())
        {
            _guest.Kick();
        }
    }

    private void Add(int chain, int[][] byId)
    {
        bool receives = chain < Chains;
        DriverQueue queue = receives ? _guest.Receive : _guest.Transmit;
        for (int i = 0; i < _pagesOfFrame; i++)
        {
            int page = (chain * _pagesOfFrame) + i;
            // Not the whole of the only page: small frames are what a poller is quick with.
            int length = _pagesOfFrame == 1 ? (receives ? 2048 : 256) : 4096;
            _chain[i] = new DmaSegment(
                _guest.At(Range(page).First, Offset(page), length), receives ? DeviceAccess.Write : DeviceAccess.Read);
        }

        if (!queue.TryAdd(_chain, out ushort id))
        {
            throw new InvalidOperationException("a ring has no place for its own buffers");
        }

        byId[receives ? 0 : 1][id] = chain;
    }
}
