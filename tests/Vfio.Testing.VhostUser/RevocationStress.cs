using System.Diagnostics;
using Vfio.Service;
using Vfio.VhostUser;
using Vfio.Virtio;

namespace Vfio.Testing.VhostUser;

/// <summary>A guest that sends itself frames without a pause, through pages that are revoked all the time: unmapped, invalidated,
/// and, once that is acknowledged, taken out of the back-end's address space. An access after the acknowledgement ends the
/// process.</summary>
public sealed class RevocationStress : IDisposable
{
    private const int RingSize = 256;
    private const int Chains = 28;
    private const ulong IovaBase = 0x20_0000_0000;

    private readonly LocalBackend _backend;
    private readonly IotlbGuest _guest;
    private readonly GuardedPages _guard;
    private readonly Random _random;
    private readonly int _pagesOfFrame;
    private readonly DmaSegment[] _chain;
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
        _guest = new IotlbGuest(_backend.Socket, features, 2 << 20, RingSize, hasIommu: true);
        for (int page = 0; page < Pages; page++)
        {
            _guest.Map(Range(page), Offset(page), Access(page));
        }

        _guard = new GuardedPages(_guest.Name, _guest.Region.Host);
    }

    private int Pages => 2 * Chains * _pagesOfFrame;

    /// <summary>Frames that came round.</summary>
    public long Received => Volatile.Read(ref _received);

    /// <summary>Frames that were sent.</summary>
    public long Sent => Volatile.Read(ref _sent);

    /// <summary>What the back-end's IOTLB did.</summary>
    public IotlbCounters Counters => _backend.Session.Iotlb;

    /// <summary>Revokes pages under load.</summary>
    /// <param name="count">How many times.</param>
    /// <param name="latencies">Filled with the time of each, in ticks of the stopwatch; may be empty.</param>
    /// <returns>How many, which is <paramref name="count"/>: else the process would not have lived.</returns>
    public long Run(long count, Span<long> latencies = default)
    {
        Exception? failure = null;
        var driver = new Thread(() => failure = Drive()) { Name = "driver" };
        driver.Start();
        long done = 0;
        try
        {
            for (; done < count && Volatile.Read(ref failure) is null; done++)
            {
                int page = _random.Next(Pages);
                long begin = Stopwatch.GetTimestamp();
                _guest.Iommu!.Unmap(Range(page));
                _guest.Frontend.Invalidate(Range(page));
                if (done < latencies.Length)
                {
                    latencies[(int)done] = Stopwatch.GetTimestamp() - begin;
                }

                _guard.Close(IotlbGuest.RingBytes + Offset(page));
                Dwell();
                _guard.Open(IotlbGuest.RingBytes + Offset(page));
                _guest.Map(Range(page), Offset(page), Access(page));
                // Told without being asked: what missed meanwhile goes on at once.
                _guest.Frontend.Update(Range(page), _guest.AddressOf(Offset(page)), Access(page));
            }
        }
        finally
        {
            Volatile.Write(ref _stop, true);
            driver.Join();
        }

        return failure is null ? done : throw new InvalidOperationException($"the driver failed: {failure.Message}", failure);
    }

    public void Dispose()
    {
        _guest.Dispose();
        _backend.Dispose();
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
