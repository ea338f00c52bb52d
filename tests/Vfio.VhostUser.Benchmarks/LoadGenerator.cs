using System.Diagnostics;
using Vfio.Linux;
using Vfio.Testing.VhostUser;
using Vfio.Virtio;

namespace Vfio.VhostUser.Benchmarks;

/// <summary>A guest that sends small frames as fast as the back-end takes them, on one thread that is its IOMMU as well.</summary>
internal sealed class LoadGenerator : IDisposable
{
    private const ulong GiB = 1ul << 30;
    private const ulong MiB2 = 2ul << 20;
    private const int RingSize = 256;
    private const int Buffers = 1024;
    private const int Batch = 32;
    private const int FrameBytes = 64;
    private const ulong IovaBase = 0x20_0000_0000;

    // Turns without progress before the IOMMU looks whether it was asked.
    private const int Patience = 8;

    // IOVAs of the dynamic cells come round after so many, as in a guest's own allocator.
    private const ulong DynamicPages = 1 << 16;

    private readonly IotlbGuest _guest;
    private readonly Mapping _mapping;
    private readonly PinnedBuffer[] _buffers = new PinnedBuffer[Buffers];
    private readonly int[] _ofId = new int[RingSize];
    private readonly Completion[] _completions = new Completion[RingSize];
    private readonly IovaRange[] _mapped = new IovaRange[Batch];
    private readonly DmaSegment[] _chain = new DmaSegment[1];
    // Never signalled.
    private readonly EventFd _silence = new();
    private int _next;
    private ulong _dynamic;

    public LoadGenerator(UnixSocket socket, VirtioFeatures features, Mapping mapping)
    {
        _mapping = mapping;
        _guest = new IotlbGuest(socket, features, GiB, RingSize, mapping != Mapping.None, servesMisses: false);
        for (int i = 0; i < Buffers; i++)
        {
            _buffers[i] = Buffer(i);
            _buffers[i].Span.Clear();
        }

        switch (mapping)
        {
            case Mapping.Static1G:
                _guest.Map(IovaRange.Of(new Iova(IovaBase), GiB), 0, DmaAccess.ReadWrite);
                break;
            case Mapping.Static2M:
                for (ulong page = 0; page < 64; page++)
                {
                    _guest.Map(IovaRange.Of(new Iova(IovaBase + (page * MiB2)), MiB2), (63 - page) * MiB2, DmaAccess.ReadWrite);
                }

                break;
            case Mapping.Static4K:
                for (int i = 0; i < Buffers; i++)
                {
                    _guest.Map(IovaRange.Of(new Iova(IovaBase + ((ulong)i * 4096)), 4096), PageOf(i), DmaAccess.ReadWrite);
                }

                break;
        }
    }

    public long Misses => _guest.Frontend.Misses;

    /// <summary>Sends for a while.</summary>
    /// <param name="time">How long.</param>
    /// <returns>When it began and ended, and frames that the back-end was done with, in millions a second.</returns>
    public (double Begin, double End, double Mpps) Run(TimeSpan time)
    {
        double from = LatencyWatch.Now;
        long begin = Stopwatch.GetTimestamp();
        long end = begin + (long)(time.TotalSeconds * Stopwatch.Frequency);
        long frames = 0;
        do
        {
            frames += _mapping switch
            {
                Mapping.Dynamic => SendMapped(1),
                Mapping.Dynamic32 => SendMapped(Batch),
                _ => SendStatic(2000),
            };
        }
        while (Stopwatch.GetTimestamp() < end);
        double mpps = frames / Stopwatch.GetElapsedTime(begin).TotalMicroseconds;
        return (from, LatencyWatch.Now, mpps);
    }

    /// <summary>Takes back everything that is with the back-end.</summary>
    public void Drain()
    {
        int idle = 0;
        while (_guest.Transmit.Outstanding != 0)
        {
            Wait(_guest.Transmit.Reap(_completions), ref idle);
        }
    }

    public void Dispose()
    {
        _guest.Dispose();
        _silence.Dispose();
    }

    // One buffer a page, pages all over 128 MiB; not all at a page's start, where they would compete for cache sets.
    private static ulong PageOf(int i) => ((ulong)(i % 64) * MiB2) + ((ulong)(i / 64) * 4096);

    private static ulong OffsetOf(int i) => (ulong)(i % 16) * 128;

    private PinnedBuffer Buffer(int i)
    {
        const int Bytes = NetHeader.Bytes + FrameBytes;
        ulong place = PageOf(i) + OffsetOf(i);
        return _mapping switch
        {
            Mapping.None => _guest.Plain(place, Bytes),
            Mapping.Static1G => _guest.At(new Iova(IovaBase + place), place, Bytes),
            Mapping.Static2M => _guest.At(
                new Iova(IovaBase + ((63 - (place / MiB2)) * MiB2) + (place % MiB2)), place, Bytes),
            // The dynamic cells put their own IOVA there.
            _ => _guest.At(new Iova(IovaBase + ((ulong)i * 4096) + OffsetOf(i)), place, Bytes),
        };
    }

    private long SendStatic(int turns)
    {
        DriverQueue ring = _guest.Transmit;
        long frames = 0;
        int idle = 0;
        for (int turn = 0; turn < turns; turn++)
        {
            int reaped = ring.Reap(_completions);
            frames += reaped;
            int wanted = Math.Min(ring.FreeDescriptors, Batch);
            for (int i = 0; i < wanted; i++)
            {
                Add(_buffers[_next]);
                _next = (_next + 1) % Buffers;
            }

            Publish(ring);
            Wait(reaped, ref idle);
        }

        return frames;
    }

    private long SendMapped(int count)
    {
        DriverQueue ring = _guest.Transmit;
        for (int i = 0; i < count; i++)
        {
            var page = IovaRange.Of(new Iova(IovaBase + (_dynamic % DynamicPages * 4096)), 4096);
            _dynamic++;
            _guest.Map(page, PageOf(_next), DmaAccess.Read);
            _mapped[i] = page;
            PinnedBuffer buffer = _buffers[_next];
            Add(buffer with { Iova = page.First + OffsetOf(_next) });
            _next = (_next + 1) % Buffers;
        }

        Publish(ring);
        int idle = 0;
        for (int done = 0; done < count;)
        {
            int reaped = ring.Reap(_completions);
            done += reaped;
            Wait(reaped, ref idle);
        }

        for (int i = 0; i < count; i++)
        {
            _guest.Iommu!.Unmap(_mapped[i]);
        }

        _guest.Frontend.Invalidate(_mapped.AsSpan(0, count));
        return count;
    }

    private void Add(PinnedBuffer buffer)
    {
        _chain[0] = new DmaSegment(buffer, DeviceAccess.Read);
        if (!_guest.Transmit.TryAdd(_chain, out ushort id))
        {
            throw new InvalidOperationException("the transmit ring is full");
        }

        _ofId[id] = _next;
    }

    private void Publish(DriverQueue ring)
    {
        if (ring.Publish())
        {
            _guest.Kick();
        }

        if (ring.Error != RingError.None)
        {
            throw new InvalidOperationException($"the back-end broke the ring: {ring.Error}");
        }
    }

    // Without progress the IOMMU may be wanted, and the back-end's own control thread this processor.
    private void Wait(int progress, ref int idle)
    {
        idle = progress != 0 ? 0 : idle + 1;
        if (idle < Patience)
        {
            return;
        }

        idle = 0;
        bool any = false;
        // Without an IOMMU nobody asks. It looks all the same: a guest that waits otherwise would be what is measured.
        FileDescriptor requests = _guest.Frontend.BackendRequests ?? _silence.Descriptor;
        while (_guest.Frontend.HasBufferedRequest || IsReadable(requests))
        {
            if (!_guest.Frontend.ServeOne())
            {
                throw new InvalidOperationException("the back-end closed its channel");
            }

            any = true;
        }

        if (!any)
        {
            Thread.Yield();
        }
    }

    private static unsafe bool IsReadable(FileDescriptor descriptor)
    {
        var wanted = new pollfd { fd = descriptor.Number, events = Poll.POLLIN };
        // SAFETY: a local, and one of it.
        return LibC.poll(&wanted, 1, 0) > 0;
    }
}
