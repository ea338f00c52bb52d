using System.Diagnostics;
using Vfio.Linux;
using Vfio.Testing.VhostUser;
using Vfio.VhostUser;
using Vfio.Virtio;

namespace Vfio.Service.Tests;

[TestClass]
public sealed class IotlbSessionTests : IDisposable
{
    private const ulong Page = 4096;
    private const int FrameBytes = 3000;

    private static readonly Iova Base = new(0x20_0000_0000);

    private readonly LocalBackend _backend;
    private readonly IotlbGuest _guest;

    public IotlbSessionTests()
    {
        _backend = new LocalBackend(ForwardMode.Io);
        _guest = new IotlbGuest(_backend.Socket, VirtioFeatures.Version1, 2 << 20, 64, hasIommu: true);
    }

    public void Dispose()
    {
        _guest.Dispose();
        _backend.Dispose();
    }

    [TestMethod]
    public void Access_platform_is_negotiated_and_rings_start_by_misses()
    {
        Assert.IsTrue(_backend.Session.Features.HasFlag(VirtioFeatures.AccessPlatform));
        MapBuffers();
        RoundTrip(1);
        Assert.IsGreaterThan(0, _guest.Frontend.Misses);
        Assert.AreEqual(0, _guest.Frontend.Unanswered);
        Assert.IsGreaterThan(0, _backend.Session.Iotlb.Hits);
    }

    [TestMethod]
    public void Two_adjacent_ranges_of_memory_that_is_not_adjacent_carry_the_right_bytes()
    {
        // The frame lies across both pages of each pair; page 7 of memory follows page 2, and page 3 follows page 9.
        Map(0, 2, DmaAccess.Read);
        Map(1, 7, DmaAccess.Read);
        Map(2, 9, DmaAccess.Write);
        Map(3, 3, DmaAccess.Write);
        for (byte seed = 1; seed < 20; seed++)
        {
            RoundTrip(seed, [(2, 0), (7, 1)], [(9, 2), (3, 3)]);
        }
    }

    [TestMethod]
    public void Misses_stop_after_the_first_round_of_a_static_pool()
    {
        MapBuffers();
        RoundTrip(1);
        long misses = _guest.Frontend.Misses;
        for (byte seed = 2; seed < 50; seed++)
        {
            RoundTrip(seed);
        }

        Assert.AreEqual(misses, _guest.Frontend.Misses);
    }

    [TestMethod]
    public void A_frame_asks_for_few_buffers_more_than_it_takes()
    {
        const uint First = 10;
        const uint Buffers = 60;
        MapBuffers();
        for (uint i = First; i < First + Buffers; i++)
        {
            Map(i, i, DmaAccess.Write);
            PinnedBuffer buffer = _guest.At(Base + (i * Page), i * Page, NetHeader.Bytes + FrameBytes);
            Assert.IsTrue(_guest.Receive.TryAdd([new DmaSegment(buffer, DeviceAccess.Write)], out _));
        }

        _guest.Receive.Publish();
        HearAll();
        Until(() => _backend.Session.Iotlb.Pending == 0, "the rings' own pages are not told");
        long before = _guest.Frontend.Misses;
        Send(1, [(0, 0), (1, 1)]);
        var completions = new Completion[1];
        Until(() => _guest.Receive.Reap(completions) == 1, "the frame did not come back");
        Until(() => _backend.Session.Iotlb.Pending == 0, "not all was answered");
        Assert.IsGreaterThan(before + 2, _guest.Frontend.Misses, "nothing was asked for ahead of need");
        Assert.IsLessThan(before + 20, _guest.Frontend.Misses, "a guest that revokes everything every few milliseconds would wait for nothing else");
    }

    [TestMethod]
    public void An_update_that_nobody_asked_for_is_used()
    {
        // Not in the IOMMU's own tables: a miss would stay unanswered.
        for (uint i = 0; i < 4; i++)
        {
            _guest.Frontend.Update(
                IovaRange.Of(Base + (i * Page), Page), _guest.AddressOf(i * Page), i < 2 ? DmaAccess.Read : DmaAccess.Write);
        }

        HearAll();
        RoundTrip(1);
        Assert.AreEqual(0, _guest.Frontend.Unanswered);
    }

    [TestMethod]
    public void A_frame_waits_for_a_translation_that_comes_late()
    {
        MapBuffers();
        RoundTrip(1);
        for (uint i = 0; i < 25; i++)
        {
            uint iova = 100 + (2 * i);
            long unanswered = _guest.Frontend.Unanswered;
            // On a thread of its own, which need not wait for one.
            Task answer = Task.Factory.StartNew(
                () => AnswerLate(iova, unanswered, takesRing: iova % 4 == 0),
                CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default);
            try
            {
                RoundTrip((byte)i, [(0, 0), (1, 1)], [(2, iova), (3, iova + 1)]);
            }
            finally
            {
                // Before the guest goes.
                answer.Wait();
            }
        }
    }

    [TestMethod]
    public void A_translation_that_never_comes_is_given_up_and_counts_when_it_comes_at_last()
    {
        MapBuffers();
        RoundTrip(1);
        PinnedBuffer target = _guest.At(Base + ((101 * Page) - 1000), (3 * Page) - 1000, NetHeader.Bytes + FrameBytes);
        Assert.IsTrue(_guest.Receive.TryAdd([new DmaSegment(target, DeviceAccess.Write)], out _));
        _guest.Receive.Publish();
        Send(2, [(0, 0), (1, 1)]);
        var completion = new Completion[1];
        Until(() => _guest.Transmit.Reap(completion) == 1, "the frame was not taken");
        Until(() => _backend.Port.Counters[0].DroppedNoBuffer == 1, "the frame waits for ever");
        Map(100, 2, DmaAccess.Write);
        Map(101, 3, DmaAccess.Write);
        long begin = Stopwatch.GetTimestamp();
        Until(() => Stopwatch.GetElapsedTime(begin).TotalSeconds > 1.5, "the clock stands still");
        RoundTrip(3, [(0, 0), (1, 1)], [(2, 100), (3, 101)]);
    }

    [TestMethod]
    public void A_frame_that_found_no_buffer_long_ago_costs_no_later_one()
    {
        MapBuffers();
        RoundTrip(1);
        Send(2, [(0, 0), (1, 1)]);
        var completion = new Completion[1];
        Until(() => _guest.Transmit.Reap(completion) == 1, "the frame was not taken");
        long sent = Stopwatch.GetTimestamp();
        // Longer than anything is waited for.
        Until(() => Stopwatch.GetElapsedTime(sent).TotalSeconds > 1.5, "the clock stands still");
        Assert.AreEqual(1, _backend.Port.Counters[0].DroppedNoBuffer);
        // Translations that are not there yet.
        Map(100, 2, DmaAccess.Write);
        Map(101, 3, DmaAccess.Write);
        RoundTrip(3, [(0, 0), (1, 1)], [(2, 100), (3, 101)]);
    }

    [TestMethod]
    public void A_frame_in_memory_that_may_not_be_read_breaks_the_ring_and_is_reported_once()
    {
        Map(0, 0, DmaAccess.Write);
        Map(1, 1, DmaAccess.Write);
        Send(1, [(0, 0), (1, 1)]);
        Until(() => _guest.Frontend.AccessFailures != 0, "no access failure was reported");
        Until(() => Logged("the driver broke it (AccessDenied"), "the ring was not stopped");
        Assert.AreEqual(1, _guest.Frontend.AccessFailures);
    }

    [TestMethod]
    public void A_ring_whose_own_pages_are_revoked_stands_still_and_goes_on_when_they_are_back()
    {
        MapBuffers();
        RoundTrip(1);
        IovaRange ring = IovaRange.Of(new Iova(IotlbGuest.RingBase), Page);
        _guest.Iommu!.Unmap(ring);
        _guest.Frontend.Invalidate(ring);
        Until(() => _guest.Frontend.Unanswered != 0, "the ring did not ask for its page again");
        _guest.Iommu.Map(ring, _guest.Region.Frontend, DmaAccess.ReadWrite);
        _guest.Frontend.Update(ring, _guest.Region.Frontend, DmaAccess.ReadWrite);
        HearAll();
        RoundTrip(2);
    }

    [TestMethod]
    public void A_ring_of_which_the_middle_of_a_page_is_revoked_asks_for_that()
    {
        MapBuffers();
        RoundTrip(1);
        long misses = _guest.Frontend.Misses;
        _guest.Frontend.Invalidate(IovaRange.Of(new Iova(IotlbGuest.RingBase + 0x200), 0x100));
        Until(() => _guest.Frontend.Misses != misses, "the ring did not ask for what it lost");
        HearAll();
        RoundTrip(2);
    }

    [TestMethod]
    public void A_ring_asks_again_for_pages_that_were_not_mapped_when_it_asked()
    {
        MapBuffers();
        RoundTrip(1);
        IovaRange ring = IovaRange.Of(new Iova(IotlbGuest.RingBase), Page);
        _guest.Iommu!.Unmap(ring);
        _guest.Frontend.Invalidate(ring);
        Until(() => _guest.Frontend.Unanswered != 0, "the ring did not ask for its page again");
        long updates = _backend.Session.Iotlb.Updates;
        _guest.Iommu.Map(ring, _guest.Region.Frontend, DmaAccess.ReadWrite);
        Until(() => _backend.Session.Iotlb.Updates != updates, "the ring did not ask once more");
        HearAll();
        RoundTrip(2);
    }

    [TestMethod]
    public void A_poller_takes_the_answers_that_it_waits_for_and_leaves_the_rest_to_the_session()
    {
        MapBuffers();
        for (byte seed = 1; _backend.Session.MessagesOfPollers == 0; seed = (byte)((seed % 100) + 1))
        {
            RoundTrip(seed);
            _guest.Frontend.Invalidate(IovaRange.Of(Base, 4 * Page));
        }

        // Rings and everything else are the session's business, also right behind a poller's answer.
        _guest.Frontend.Invalidate(IovaRange.Of(new Iova(IotlbGuest.RingBase), Page), IovaRange.Of(Base, Page));
        RoundTrip(101);
        Assert.AreEqual(1ul, _guest.Frontend.SendIotlb(new IotlbMessage { Iova = Base, Size = 0, Type = IotlbMessageType.Update }));
        RoundTrip(102);
        Assert.AreNotEqual(0u, _guest.Frontend.StopRing(1), "the ring was used, and the session stopped it");
    }

    [TestMethod]
    [DataRow(VirtioFeatures.Version1, false)]
    [DataRow(VirtioFeatures.Version1, true)]
    [DataRow(VirtioFeatures.Version1 | VirtioFeatures.RingPacked, false)]
    [DataRow(VirtioFeatures.Version1 | VirtioFeatures.RingPacked, true)]
    public void A_ring_over_pages_that_are_not_neighbours_here_works(VirtioFeatures features, bool hasNoView)
    {
        // Room for the memory's one file and its guards: a view of the ring is refused, as the kernel refuses one of parts of huge pages.
        using var backend = new LocalBackend(ForwardMode.RxOnly, limits: hasNoView ? MappingLimits.Peer with { Mappings = 4 } : null);
        using var guest = new IotlbGuest(backend.Socket, features, 2 << 20, 1024, hasIommu: true, scattersRings: true);
        guest.Map(IovaRange.Of(Base, Page), 0, DmaAccess.Read);
        var completions = new Completion[64];
        int used = 0;
        for (int sent = 0; sent < 5000;)
        {
            while (sent - used < 64 && guest.Transmit.TryAdd([new DmaSegment(guest.At(Base, 0, 100), DeviceAccess.Read)], out _))
            {
                sent++;
            }

            guest.Transmit.Publish();
            guest.Kick();
            Until(() => (used += guest.Transmit.Reap(completions)) == sent, $"used {used} of {sent}: {string.Join("; ", backend.Log)}");
            Assert.AreEqual(RingError.None, guest.Transmit.Error);
        }

        // Revoked, and told again: the view is made anew.
        guest.Frontend.Invalidate(new IovaRange(new Iova(0), new Iova(ulong.MaxValue)));
        Assert.IsTrue(guest.Transmit.TryAdd([new DmaSegment(guest.At(Base, 0, 100), DeviceAccess.Read)], out _));
        guest.Transmit.Publish();
        guest.Kick();
        Until(() => guest.Transmit.Reap(completions) == 1, "the ring did not go on");
        // Once for each ring, however often they start again.
        Assert.HasCount(
            hasNoView ? 2 : 0, backend.Log.Where(l => l.Contains("is slower for it", StringComparison.Ordinal)), string.Join("; ", backend.Log));
    }

    [TestMethod]
    public void Everything_can_be_invalidated_while_rings_run()
    {
        MapBuffers();
        for (byte seed = 1; seed < 20; seed++)
        {
            RoundTrip(seed);
            _guest.Frontend.Invalidate(new IovaRange(new Iova(0), new Iova(ulong.MaxValue)));
        }
    }

    [TestMethod]
    public void A_new_memory_table_voids_every_translation()
    {
        MapBuffers();
        RoundTrip(1);
        long misses = _guest.Frontend.Misses;
        _guest.Frontend.SetMemory(_guest.Region);
        RoundTrip(2);
        Assert.IsGreaterThan(misses, _guest.Frontend.Misses);
    }

    [TestMethod]
    public void Memory_that_is_added_voids_none()
    {
        // Nobody would answer for these.
        for (uint i = 0; i < 4; i++)
        {
            _guest.Frontend.Update(
                IovaRange.Of(Base + (i * Page), Page), _guest.AddressOf(i * Page), i < 2 ? DmaAccess.Read : DmaAccess.Write);
        }

        RoundTrip(1);
        using var more = new FrontendRegion("more", new GuestPhysicalAddress(0x10_0000_0000), 2 << 20);
        _guest.Frontend.AddMemory(more);
        RoundTrip(2);
        Assert.AreEqual(0, _guest.Frontend.Unanswered);
    }

    [TestMethod]
    // Type, address, size, user address (0: a good one), permissions.
    [DataRow(IotlbMessageType.Update, 0ul, 0ul, 0ul, 3)]
    [DataRow(IotlbMessageType.Update, ulong.MaxValue, 2ul, 0ul, 3)]
    [DataRow(IotlbMessageType.Update, 0x1000ul, ulong.MaxValue, 0ul, 3)]
    [DataRow(IotlbMessageType.Update, 0x1000ul, 0x1000ul, 0x10ul, 3)]
    [DataRow(IotlbMessageType.Update, 0x1000ul, 0x1000ul, ulong.MaxValue, 3)]
    [DataRow(IotlbMessageType.Update, 0x1000ul, 0x10_0000_0000ul, 0ul, 3)]
    [DataRow(IotlbMessageType.Update, 0x1000ul, 0x1000ul, 0ul, 4)]
    [DataRow(IotlbMessageType.Update, 0x1000ul, 0x1000ul, 0ul, 255)]
    [DataRow(IotlbMessageType.Invalidate, 0x1000ul, 0ul, 0ul, 0)]
    [DataRow(IotlbMessageType.Invalidate, 0x1000ul, ulong.MaxValue, 0ul, 0)]
    [DataRow(IotlbMessageType.Miss, 0x1000ul, 0x1000ul, 0ul, 3)]
    [DataRow(IotlbMessageType.AccessFail, 0x1000ul, 0x1000ul, 0ul, 3)]
    [DataRow((IotlbMessageType)0, 0x1000ul, 0x1000ul, 0ul, 3)]
    [DataRow((IotlbMessageType)5, 0x1000ul, 0x1000ul, 0ul, 3)]
    [DataRow((IotlbMessageType)255, 0x1000ul, 0x1000ul, 0ul, 3)]
    public void A_message_that_cannot_be_right_is_refused_and_changes_nothing(
        object type, ulong iova, ulong size, ulong user, int permissions)
    {
        MapBuffers();
        RoundTrip(1);
        long entries = _backend.Session.Iotlb.Entries;
        ulong answer = _guest.Frontend.SendIotlb(new IotlbMessage
        {
            Type = (IotlbMessageType)type,
            Iova = new Iova(iova),
            Size = size,
            UserAddress = user == 0 ? _guest.AddressOf(0) : new FrontendAddress(user),
            Permissions = (byte)permissions,
        });
        Assert.AreEqual(1ul, answer);
        Assert.AreEqual(entries, _backend.Session.Iotlb.Entries);
        RoundTrip(2);
    }

    [TestMethod]
    public void A_range_without_access_is_known_and_refused()
    {
        Assert.AreEqual(0ul, _guest.Frontend.SendIotlb(new IotlbMessage
        {
            Type = IotlbMessageType.Update,
            Iova = Base,
            Size = 2 * Page,
        }));
        Send(1, [(0, 0), (1, 1)]);
        Until(() => _guest.Frontend.AccessFailures != 0, "no access failure was reported");
    }

    [TestMethod]
    public void A_flood_of_updates_stays_within_the_capacity()
    {
        MapBuffers();
        for (ulong i = 0; i < DeviceIotlb.DefaultCapacity + 5000; i++)
        {
            // Every other page: nothing merges.
            _guest.Frontend.Update(
                IovaRange.Of(new Iova(0x100_0000_0000 + (i * 2 * Page)), Page), _guest.AddressOf(0), DmaAccess.Read);
        }

        RoundTrip(1);
        IotlbCounters counters = _backend.Session.Iotlb;
        Assert.IsLessThanOrEqualTo(DeviceIotlb.DefaultCapacity, counters.Entries);
        Assert.IsGreaterThan(0, counters.Evicted);
    }

    [TestMethod]
    public void A_flood_of_invalidations_is_acknowledged_one_by_one_and_rings_go_on()
    {
        MapBuffers();
        RoundTrip(1);
        // What is known, what is not, and the rings' own, again and again.
        IovaRange[] ranges = [.. Enumerable.Range(0, 2000).Select(i => IovaRange.Of(
            i % 100 == 0 ? new Iova(IotlbGuest.RingBase) : Base + ((ulong)(i % 8) * Page), Page))];
        _guest.Frontend.Invalidate(ranges);
        RoundTrip(2);
    }

    [TestMethod]
    public void An_update_that_overlaps_what_is_known_counts_for_exactly_its_range()
    {
        MapBuffers();
        RoundTrip(1);
        _guest.Frontend.Update(IovaRange.Of(Base + Page, Page), _guest.AddressOf(8 * Page), DmaAccess.Read);
        HearAll();
        RoundTrip(2, [(0, 0), (8, 1)], [(2, 2), (3, 3)]);
        // Over both, and the first page of the receive buffer.
        _guest.Frontend.Update(IovaRange.Of(Base, 3 * Page), _guest.AddressOf(16 * Page), DmaAccess.ReadWrite);
        HearAll();
        RoundTrip(3, [(16, 0), (17, 1)], [(18, 2), (3, 3)]);
        // Inside it.
        _guest.Frontend.Update(IovaRange.Of(Base + Page, Page), _guest.AddressOf(24 * Page), DmaAccess.Read);
        HearAll();
        RoundTrip(4, [(16, 0), (24, 1)], [(18, 2), (3, 3)]);
    }

    private static void Until(Func<bool> condition, string otherwise)
    {
        long begin = Stopwatch.GetTimestamp();
        while (!condition())
        {
            Assert.IsLessThan(60, Stopwatch.GetElapsedTime(begin).TotalSeconds, otherwise);
            Thread.Yield();
        }
    }

    // Longer than a frame waits for a buffer, shorter than for a translation. Not in the IOMMU's own tables: only this update tells. The
    // ring may go away meanwhile, as a Linux guest takes its pages too.
    private void AnswerLate(uint iova, long unanswered, bool takesRing)
    {
        Until(() => _guest.Frontend.Unanswered > unanswered, "nothing was asked");
        long asked = Stopwatch.GetTimestamp();
        Until(() => Stopwatch.GetElapsedTime(asked).TotalMilliseconds > 60, "the clock stands still");
        if (takesRing)
        {
            _guest.Frontend.Invalidate(IovaRange.Of(new Iova(IotlbGuest.RingBase), IotlbGuest.RingBytes));
        }

        Until(() => Stopwatch.GetElapsedTime(asked).TotalMilliseconds > 70, "the clock stands still");
        for (uint page = 0; page < 2; page++)
        {
            _guest.Frontend.Update(
                IovaRange.Of(Base + ((iova + page) * Page), Page), _guest.AddressOf((2 + page) * Page), DmaAccess.Write);
        }
    }

    private bool Logged(string text) => _backend.Log.Any(l => l.Contains(text, StringComparison.Ordinal));

    // An update has no answer; a request behind it has.
    private void HearAll() => _guest.Frontend.Enable(0, true);

    // IOVA page i is page of memory.
    private void Map(uint i, uint page, DmaAccess access) =>
        _guest.Map(IovaRange.Of(Base + (i * Page), Page), page * Page, access);

    private void MapBuffers()
    {
        for (uint i = 0; i < 4; i++)
        {
            Map(i, i, i < 2 ? DmaAccess.Read : DmaAccess.Write);
        }
    }

    private void RoundTrip(byte seed) => RoundTrip(seed, [(0, 0), (1, 1)], [(2, 2), (3, 3)]);

    // Each pair: a page of memory, and the IOVA page that it is at. The last 1000 bytes of the first page and what is needed of the second hold the frame.
    private void RoundTrip(byte seed, (uint Page, uint Iova)[] source, (uint Page, uint Iova)[] target)
    {
        int first = (int)Page - 1000;
        // One buffer over both pages: contiguous for the device, not here. Before the frame, which would not wait for it for long.
        PinnedBuffer buffer = _guest.At(Base + (target[0].Iova * Page) + (ulong)first, (target[0].Page * Page) + (ulong)first, NetHeader.Bytes + FrameBytes);
        Assert.IsTrue(_guest.Receive.TryAdd([new DmaSegment(buffer, DeviceAccess.Write)], out _));
        _guest.Receive.Publish();
        byte[] expected = Send(seed, source);
        var completions = new Completion[1];
        Until(() => _guest.Receive.Reap(completions) == 1, $"the frame did not come back: {string.Join("; ", _backend.Log)}");
        Assert.AreEqual((uint)(NetHeader.Bytes + FrameBytes), completions[0].Written);
        Until(() => _guest.Transmit.Reap(completions) == 1, "the transmit buffer did not come back");
        int head = (int)Page - first;
        byte[] received =
        [
            .. _guest.Plain((target[0].Page * Page) + (ulong)first, head).Span,
            .. _guest.Plain(target[1].Page * Page, NetHeader.Bytes + FrameBytes - head).Span,
        ];
        CollectionAssert.AreEqual(expected, received[NetHeader.Bytes..]);
    }

    private byte[] Send(byte seed, (uint Page, uint Iova)[] source)
    {
        int total = NetHeader.Bytes + FrameBytes;
        int first = (int)Page - 1000;
        var bytes = new byte[total];
        for (int i = NetHeader.Bytes; i < total; i++)
        {
            bytes[i] = unchecked((byte)((i * 31) + seed));
        }

        bytes.AsSpan(0, 1000).CopyTo(_guest.Plain((source[0].Page * Page) + (ulong)first, 1000).Span);
        bytes.AsSpan(1000).CopyTo(_guest.Plain(source[1].Page * Page, total - 1000).Span);
        PinnedBuffer buffer = _guest.At(Base + (source[0].Iova * Page) + (ulong)first, (source[0].Page * Page) + (ulong)first, total);
        Assert.IsTrue(_guest.Transmit.TryAdd([new DmaSegment(buffer, DeviceAccess.Read)], out _));
        _guest.Transmit.Publish();
        _guest.Kick();
        return bytes[NetHeader.Bytes..];
    }
}
