using Vfio.Virtio;

namespace Vfio.VhostUser.Tests;

[TestClass]
public sealed class DeviceIotlbModelTests
{
    private static readonly DmaAccess[] Accesses = [DmaAccess.None, DmaAccess.Read, DmaAccess.Write, DmaAccess.ReadWrite];

    public TestContext TestContext { get; set; } = null!;

    // 0, an ordinary place, and the window whose last byte is the last of the address space.
    [TestMethod]
    [DataRow(0ul, 1)]
    [DataRow(0x7fff_f000ul, 8)]
    [DataRow(ulong.MaxValue - 65535, 1)]
    [DataRow(ulong.MaxValue - 65535, 64)]
    public void Random_updates_invalidations_and_lookups_agree_with_a_naive_map(ulong origin, int maxLength)
    {
        int seed = Environment.TickCount;
        TestContext.WriteLine($"seed {seed}");
        var random = new Random(seed);
        var model = new NaiveIotlb(origin, 65536);
        var iotlb = new DeviceIotlb();
        using var view = new IotlbView(iotlb, questions => 0);
        int most = 0;
        for (int step = 0; step < 30_000; step++)
        {
            int length = random.Next(1000) == 0 ? random.Next(1, model.Bytes) : random.Next(1, (4 * maxLength) + 1);
            int first = random.Next(model.Bytes - length + 1);
            IotlbSnapshot before = iotlb.Snapshot;
            if (random.Next(8) == 0)
            {
                iotlb.Invalidate(model.Range(first, length));
                model.Invalidate(first, length);
            }
            else
            {
                length = Math.Min(length, maxLength);
                DmaAccess access = Accesses[random.Next(4)];
                // Often the host address that a neighbour would continue at, so that merging happens.
                ulong host = 0x10_0000 + (ulong)first + (random.Next(4) == 0 ? (ulong)random.Next(3) << 20 : 0);
                iotlb.Update(new IotlbRange(model.Range(first, length), new HostAddress(host), access));
                model.Update(first, length, host, access);
            }

            most = Math.Max(most, iotlb.Snapshot.Count);
            CheckUnchangedIfSameGeneration(before, iotlb.Snapshot, model, random);
            CheckLookup(iotlb.Snapshot, model, random);
            CheckView(view, model, random);
            if (step % 1000 == 0)
            {
                CheckShape(iotlb.Snapshot, model);
            }
        }

        CheckShape(iotlb.Snapshot, model);
        Assert.IsGreaterThan(IotlbChunk.MaxRanges * 4, most, "too few ranges to have exercised several chunks");
        Assert.IsGreaterThan(0, iotlb.Counters.Merged);
        Assert.IsGreaterThan(0, iotlb.Counters.Invalidated);
    }

    // A view remembers ranges of 2 MiB and more apart from smaller ones, which may lie in the same large page.
    [TestMethod]
    public void A_view_of_large_ranges_and_small_ones_agrees_with_a_naive_map()
    {
        const ulong Unit = 256 << 10;
        int seed = Environment.TickCount;
        TestContext.WriteLine($"seed {seed}");
        var random = new Random(seed);
        // What it calls a byte is a unit here.
        var model = new NaiveIotlb(0, 256);
        var iotlb = new DeviceIotlb();
        using var view = new IotlbView(iotlb, questions => 0);
        int[] translated = new int[2];
        for (int step = 0; step < 30_000; step++)
        {
            int length = random.Next(1, random.Next(2, 33));
            int first = random.Next(model.Bytes - length + 1);
            var range = IovaRange.Of(new Iova((ulong)first * Unit), (ulong)length * Unit);
            if (random.Next(8) == 0)
            {
                iotlb.Invalidate(range);
                model.Invalidate(first, length);
            }
            else
            {
                DmaAccess access = Accesses[random.Next(4)];
                ulong host = 0x10_0000 + (ulong)first + (random.Next(4) == 0 ? (ulong)random.Next(3) << 20 : 0);
                iotlb.Update(new IotlbRange(range, new HostAddress(host * Unit), access));
                model.Update(first, length, host, access);
            }

            view.Begin();
            for (int i = 0; i < 8; i++)
            {
                var address = new Iova((ulong)random.NextInt64(255 * (long)Unit));
                uint bytes = (uint)random.Next(1, random.Next(2, (int)Unit));
                DmaAccess access = Accesses[random.Next(1, 4)];
                var unit = new Iova(address.Value / Unit);
                // The second time it is a last hit.
                for (int time = 0; time < 2; time++)
                {
                    bool atHand = view.LastHits.TryTranslate(address, bytes, access, out HostAddress whole);
                    TranslationStatus kind = view.Translate(address, bytes, access, out HostAddress host, out uint usable);
                    Assert.AreEqual(model.Kind(unit, access), kind);
                    bool isWhole = kind == TranslationStatus.Translated && usable == bytes;
                    Assert.IsTrue(isWhole || !atHand);
                    Assert.IsTrue(atHand || !isWhole || time == 0 || access == DmaAccess.ReadWrite, "what was found is not at hand");
                    Assert.IsTrue(!atHand || whole == host);
                    if (kind == TranslationStatus.Translated)
                    {
                        Assert.AreEqual((model.Host(unit).Value * Unit) + (address.Value % Unit), host.Value);
                        Assert.IsTrue(usable >= 1 && usable <= bytes);
                        Iova last = address + (usable - 1);
                        var lastUnit = new Iova(last.Value / Unit);
                        Assert.AreEqual(TranslationStatus.Translated, model.Kind(lastUnit, access));
                        Assert.AreEqual((model.Host(lastUnit).Value * Unit) + (last.Value % Unit), host.Value + (usable - 1));
                        iotlb.Snapshot.TryFind(address, out IotlbRange found);
                        translated[found.Range.Last - found.Range.First < (2 << 20) - 1 ? 0 : 1]++;
                    }
                }
            }
        }

        Assert.IsGreaterThan(1000, translated[0], "small ranges were hardly looked at");
        Assert.IsGreaterThan(1000, translated[1], "large ranges were hardly looked at");
    }

    [TestMethod]
    [DataRow(1)]
    [DataRow(7)]
    [DataRow(300)]
    public void A_full_one_never_exceeds_its_bound_never_lies_and_keeps_what_is_held(int capacity)
    {
        int seed = Environment.TickCount;
        TestContext.WriteLine($"seed {seed}");
        var random = new Random(seed);
        var model = new NaiveIotlb(0x1000, 65536);
        var iotlb = new DeviceIotlb(capacity);
        using var view = new IotlbView(iotlb, questions => 0);
        var recent = new Iova[4];
        IovaRange held = model.Range(5000, 1);
        iotlb.Hold(this, held);
        iotlb.Update(new IotlbRange(held, new HostAddress(0x99_0000), DmaAccess.ReadWrite));
        model.Update(5000, 1, 0x99_0000, DmaAccess.ReadWrite);
        for (int step = 0; step < 20_000; step++)
        {
            // Two bytes apart, so that nothing merges.
            int first = 2 * random.Next(model.Bytes / 2);
            if (first == 5000)
            {
                continue;
            }

            iotlb.Update(new IotlbRange(model.Range(first, 1), new HostAddress(0x10_0000 + (ulong)first), DmaAccess.Read));
            model.Update(first, 1, 0x10_0000 + (ulong)first, DmaAccess.Read);
            Assert.IsTrue(iotlb.Snapshot.TryFind(new Iova(0x1000 + (ulong)first), out _), "what was just told is gone");
            Assert.IsTrue(iotlb.Snapshot.TryFind(held.First, out _), "a ring's own range was evicted");
            Assert.IsLessThanOrEqualTo(Math.Max(capacity, 2), iotlb.Snapshot.Count);
            // It may have forgotten; what it still says must be true.
            Iova any = model.Range(random.Next(model.Bytes), 1).First;
            if (iotlb.Snapshot.TryFind(any, out IotlbRange found))
            {
                Assert.IsTrue(model.Knows(any));
                Assert.AreEqual(model.Host(any), found.At(any));
            }

            // Nor do last hits outlive what was thrown out.
            view.Begin();
            recent[step % recent.Length] = model.Range(first, 1).First;
            foreach (Iova address in recent)
            {
                bool isKnown = iotlb.Snapshot.TryFind(address, out found);
                TranslationStatus kind = view.Translate(address, 1, DmaAccess.Read, out HostAddress host, out _);
                Assert.AreEqual(isKnown, kind == TranslationStatus.Translated);
                Assert.IsTrue(!isKnown || host == found.At(address));
            }
        }

        Assert.IsGreaterThan(1000, iotlb.Counters.Evicted);
        iotlb.Release(this);
    }

    [TestMethod]
    public void Eviction_spares_what_queues_use()
    {
        var iotlb = new DeviceIotlb(capacity: 64);
        Iova hot = Page(0);
        iotlb.Update(Translation(0));
        int missing = 0;
        for (uint page = 1; page < 5000; page++)
        {
            missing += iotlb.Snapshot.TryFind(hot, out _) ? 0 : 1;
            iotlb.Update(Translation(page));
        }

        Assert.AreEqual(0, missing);
        Assert.IsGreaterThan(4000, iotlb.Counters.Evicted);
    }

    private static Iova Page(uint page) => new(page * 4096ul);

    // Neighbouring pages whose memory is not: nothing merges.
    private static IotlbRange Translation(uint page) =>
        new(IovaRange.Of(Page(page), 4096), new HostAddress(0x10_0000_0000 - (page * 8192ul)), DmaAccess.ReadWrite);

    private static IovaRange AnyRange(NaiveIotlb model, Random random)
    {
        int length = random.Next(16) == 0 ? random.Next(1, 2000) : random.Next(1, 30);
        return model.Range(random.Next(model.Bytes - length + 1), length);
    }

    private static void CheckLookup(IotlbSnapshot snapshot, NaiveIotlb model, Random random)
    {
        IovaRange range = AnyRange(model, random);
        DmaAccess access = Accesses[random.Next(1, 4)];
        Span<IotlbPiece> pieces = new IotlbPiece[random.Next(1, 6)];
        ulong checkedTo = range.First.Value;
        while (true)
        {
            int count = snapshot.Lookup(range, access, pieces);
            foreach (IotlbPiece piece in pieces[..count])
            {
                Assert.AreEqual(checkedTo, piece.Range.First.Value, "a gap between pieces");
                for (ulong i = 0; i <= piece.Range.Last - piece.Range.First; i++)
                {
                    Iova address = piece.Range.First + i;
                    Assert.AreEqual(model.Kind(address, access), piece.Kind);
                    if (piece.Kind == TranslationStatus.Translated)
                    {
                        Assert.AreEqual(model.Host(address), piece.Host + i);
                    }
                }

                checkedTo = unchecked(piece.Range.Last.Value + 1);
            }

            Iova last = pieces[count - 1].Range.Last;
            if (last == range.Last)
            {
                return;
            }

            range = new IovaRange(last + 1, range.Last);
        }
    }

    private static void CheckView(IotlbView view, NaiveIotlb model, Random random)
    {
        view.Begin();
        for (int i = 0; i < 4; i++)
        {
            IovaRange range = AnyRange(model, random);
            DmaAccess access = Accesses[random.Next(1, 4)];
            TranslationStatus kind = view.Translate(range.First, (uint)range.Length, access, out HostAddress host, out uint usable);
            Assert.AreEqual(model.Kind(range.First, access), kind);
            if (kind == TranslationStatus.Translated)
            {
                Assert.IsTrue(usable >= 1 && usable <= range.Length);
                Assert.AreEqual(model.Host(range.First), host);
                Assert.AreEqual(model.Host(range.First + (usable - 1)), host + (usable - 1));
                Assert.AreEqual(TranslationStatus.Translated, model.Kind(range.First + (usable - 1), access));
            }
        }
    }

    private static void CheckUnchangedIfSameGeneration(
        IotlbSnapshot before, IotlbSnapshot after, NaiveIotlb model, Random random)
    {
        if (before.Generation != after.Generation)
        {
            return;
        }

        for (int i = 0; i < 4; i++)
        {
            Iova address = AnyRange(model, random).First;
            if (before.TryFind(address, out IotlbRange old))
            {
                Assert.IsTrue(after.TryFind(address, out IotlbRange now), "taken away without a new generation");
                Assert.AreEqual(old.Access, now.Access, "changed without a new generation");
                Assert.IsTrue(
                    old.Access == DmaAccess.None || old.At(address) == now.At(address), "moved without a new generation");
            }
        }
    }

    private static void CheckShape(IotlbSnapshot snapshot, NaiveIotlb model)
    {
        int count = 0;
        IotlbRange? previous = null;
        foreach (IotlbChunk chunk in snapshot.Chunks)
        {
            Assert.IsTrue(chunk.Ranges.Length is > 0 and <= IotlbChunk.MaxRanges);
            foreach (IotlbRange range in chunk.Ranges)
            {
                if (previous is { } left)
                {
                    Assert.IsTrue(left.Range.Last < range.Range.First, "not sorted");
                    Assert.IsFalse(left.Continues(range), "not merged");
                }

                count++;
                previous = range;
            }
        }

        Assert.AreEqual(count, snapshot.Count);
        Assert.AreEqual(model.Ranges(), snapshot.Count);
        // Chunks do not fall to pieces: on average they are not emptier than the least that one may have.
        Assert.IsLessThanOrEqualTo((2 * count / IotlbChunk.MinRanges) + 1, snapshot.Chunks.Length);
    }
}
