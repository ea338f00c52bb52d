namespace Vfio.Virtio.Tests;

/// <summary>What a driver can do wrong, and that the device side says what it was, touches nothing outside, and stays stopped.</summary>
[TestClass]
public sealed class HostileDriverTests
{
    private const ulong Bus = RawRing.DataBus;

    [TestMethod]
    public void Split_available_index_ahead_by_more_than_the_queue()
    {
        using var ring = new RawRing(packed: false);
        ring.SetIndex(RawRing.Size + 1);
        Expect(ring, RingError.IndexJump);
    }

    [TestMethod]
    public void Split_available_index_goes_back()
    {
        using var ring = new RawRing(packed: false);
        ring.Set(0, Bus, 16, 0);
        ring.Offer(0, 0);
        Assert.AreEqual(2, ring.Peek());
        ring.Queue.Consume(ring.Chains.AsSpan(0, 2));
        ring.SetIndex(1);
        Expect(ring, RingError.IndexJump);
    }

    [TestMethod]
    public void Split_head_beyond_the_table()
    {
        using var ring = new RawRing(packed: false);
        ring.Set(0, Bus, 16, 0);
        ring.Offer(0, RawRing.Size, 0);
        Expect(ring, RingError.HeadOutOfRange, before: 1);
        Assert.AreEqual(1, ring.Queue.ErrorPosition);
    }

    [TestMethod]
    public void Split_next_beyond_the_table()
    {
        using var ring = new RawRing(packed: false);
        ring.Set(0, Bus, 16, RawRing.Next, RawRing.Size);
        ring.Offer(0);
        Expect(ring, RingError.NextOutOfRange);
    }

    [TestMethod]
    public void Split_loops_end()
    {
        using var ring = new RawRing(packed: false);
        ring.Set(0, Bus, 16, RawRing.Next, 0);
        ring.Offer(0);
        Expect(ring, RingError.ChainTooLong);
    }

    [TestMethod]
    public void Packed_chain_longer_than_the_ring()
    {
        using var ring = new RawRing(packed: true);
        for (int i = 0; i < RawRing.Size; i++)
        {
            ring.Set(i, Bus, 16, RawRing.Next);
        }

        Expect(ring, RingError.ChainTooLong);
    }

    [TestMethod]
    public void Packed_record_of_more_than_its_chain()
    {
        using var ring = new RawRing(packed: true);
        // The first has no NEXT: the other two belong to nothing.
        var one = new PackedDescriptor(new BusAddress(Bus), PackedDescriptor.MakeControl(16, 0, 0));
        Assert.IsFalse(((PackedDeviceQueue)ring.Queue).Resolve(ref ring.Translator, [one, one, one], out _, ring.Segments));
        Assert.AreEqual(RingError.ChainTooLong, ring.Queue.Error);
        using var other = new RawRing(packed: true);
        Assert.IsTrue(((PackedDeviceQueue)other.Queue).Resolve(ref other.Translator, [one], out _, other.Segments));
    }

    [TestMethod]
    [DataRow(false)]
    [DataRow(true)]
    public void Chains_that_lead_nowhere_take_no_more_of_a_batch_than_others(bool packed)
    {
        using var ring = new RawRing(packed);
        for (int i = 0; i < RawRing.Size; i++)
        {
            ring.SetEntry(16 * i, Bus + 2048, 16, packed || i == RawRing.Size - 1 ? 0 : RawRing.Next, packed ? 0 : i + 1);
            ring.Set(i, Bus, 16 * RawRing.Size, RawRing.Indirect, packed ? i : 0);
        }

        ring.Offer([.. Enumerable.Range(0, RawRing.Size).Select(i => (ushort)i)]);
        ring.Translator.MissFrom = Bus + 2048;
        Assert.AreEqual(0, ring.Queue.Peek(ref ring.Translator, ring.Chains, ring.Segments.AsSpan(0, 20)));
        Assert.IsTrue(ring.Queue.Missed);
        Assert.AreEqual(RingError.None, ring.Queue.Error);
        // A place for each, and the one that found none.
        Assert.AreEqual(21, ring.Translator.Misses);
    }

    [TestMethod]
    [DataRow(false)]
    [DataRow(true)]
    public void More_given_out_than_there_is(bool packed)
    {
        using var ring = new RawRing(packed);
        for (int i = 0; i < RawRing.Size; i++)
        {
            ring.Set(i, Bus, 16, 0, packed ? i : 0);
        }

        ring.Offer([.. Enumerable.Range(0, RawRing.Size).Select(i => (ushort)i)]);
        Assert.AreEqual(RawRing.Size, ring.Peek());
        ring.Queue.Consume(ring.Chains.AsSpan(0, RawRing.Size));
        // Nothing was used, and yet slot 0 is available again.
        ring.Set(0, Bus, 16, packed ? PackedDescriptor.UsedFlag ^ PackedDescriptor.AvailFlag : 0);
        if (packed)
        {
            // On the second pass: AVAIL clear, USED set.
            ring.Descriptors.Span[14] = 0;
            ring.Descriptors.Span[15] = 0x80;
        }

        ring.Offer(0);
        Expect(ring, RingError.TooManyOutstanding);
    }

    [TestMethod]
    [DataRow(false, 0u, RingError.ZeroLength)]
    [DataRow(true, 0u, RingError.ZeroLength)]
    [DataRow(false, RawRing.DataBytes + 1u, RingError.AccessDenied)]
    [DataRow(true, RawRing.DataBytes + 1u, RingError.AccessDenied)]
    [DataRow(false, uint.MaxValue, RingError.AccessDenied)]
    [DataRow(true, uint.MaxValue, RingError.AccessDenied)]
    public void Lengths_that_are_not_the_drivers(bool packed, uint length, RingError expected)
    {
        using var ring = new RawRing(packed);
        ring.Set(0, Bus, length, RawRing.Write);
        ring.Offer(0);
        Expect(ring, expected);
    }

    [TestMethod]
    [DataRow(false, Bus - 1, RingError.AccessDenied)]
    [DataRow(true, Bus - 1, RingError.AccessDenied)]
    [DataRow(false, 0ul, RingError.AccessDenied)]
    [DataRow(true, 0ul, RingError.AccessDenied)]
    [DataRow(false, ulong.MaxValue - 3, RingError.AddressWrap)]
    [DataRow(true, ulong.MaxValue - 3, RingError.AddressWrap)]
    public void Addresses_that_are_not_the_drivers(bool packed, ulong address, RingError expected)
    {
        using var ring = new RawRing(packed);
        ring.Set(0, address, 16, 0);
        ring.Offer(0);
        Expect(ring, expected);
    }

    [TestMethod]
    [DataRow(false)]
    [DataRow(true)]
    public void Writing_where_it_may_only_be_read(bool packed)
    {
        using var ring = new RawRing(packed);
        ring.Translator.ReadOnlyFrom = Bus + 64;
        ring.Set(0, Bus + 60, 8, 0);
        ring.Set(1, Bus + 64, 8, RawRing.Write);
        ring.Offer(0, 1);
        Expect(ring, RingError.AccessDenied, before: 1);
    }

    [TestMethod]
    [DataRow(false)]
    [DataRow(true)]
    public void Readable_after_writable(bool packed)
    {
        using var ring = new RawRing(packed);
        ring.Set(0, Bus, 16, RawRing.Write | RawRing.Next, 1);
        ring.Set(1, Bus, 16, 0);
        ring.Offer(0);
        Expect(ring, RingError.ReadableAfterWritable);
    }

    [TestMethod]
    [DataRow(false)]
    [DataRow(true)]
    public void More_than_two_to_the_32_bytes(bool packed)
    {
        using var ring = new RawRing(packed);
        // Memory that is large only for the translator, which nobody follows.
        ring.Translator = new PlainTranslator(Bus, ring.Data.Address, 1UL << 33);
        ring.Set(0, Bus, 0x8000_0000, RawRing.Next, 1);
        ring.Set(1, Bus, 0x8000_0000, RawRing.Next, 2);
        ring.Set(2, Bus, 1, 0);
        ring.Offer(0);
        Expect(ring, RingError.ChainTooLarge);
    }

    [TestMethod]
    [DataRow(false, 0u, RingError.IndirectLength)]
    [DataRow(true, 0u, RingError.IndirectLength)]
    [DataRow(false, 17u, RingError.IndirectLength)]
    [DataRow(true, 17u, RingError.IndirectLength)]
    [DataRow(false, 0xFFFF_FFF0u, RingError.AccessDenied)]
    [DataRow(true, 0xFFFF_FFF0u, RingError.AccessDenied)]
    public void Indirect_tables_of_a_wrong_length(bool packed, uint length, RingError expected)
    {
        using var ring = new RawRing(packed);
        for (int i = 0; i < RawRing.DataBytes / 16; i++)
        {
            ring.SetEntry(16 * i, Bus, 1, RawRing.Next, i + 1);
        }

        ring.Set(0, Bus, length, RawRing.Indirect);
        ring.Offer(0);
        // A table that begins in the driver's memory is walked as far as the chain may be long.
        Expect(ring, expected == RingError.AccessDenied ? RingError.ChainTooLong : expected);
    }

    [TestMethod]
    [DataRow(false)]
    [DataRow(true)]
    public void Indirect_table_that_leaves_memory(bool packed)
    {
        using var ring = new RawRing(packed);
        ring.SetEntry(RawRing.DataBytes - 16, Bus, 1, RawRing.Next, 1);
        ring.Set(0, Bus + RawRing.DataBytes - 16, 32, RawRing.Indirect);
        ring.Offer(0);
        Expect(ring, RingError.AccessDenied);
    }

    [TestMethod]
    [DataRow(false)]
    [DataRow(true)]
    public void Nested_indirect_table(bool packed)
    {
        using var ring = new RawRing(packed);
        ring.SetEntry(0, Bus, 16, RawRing.Indirect);
        ring.Set(0, Bus, 16, RawRing.Indirect);
        ring.Offer(0);
        Expect(ring, RingError.NestedIndirect);
    }

    [TestMethod]
    [DataRow(false)]
    [DataRow(true)]
    public void Indirect_descriptor_that_goes_on(bool packed)
    {
        using var ring = new RawRing(packed);
        ring.SetEntry(0, Bus, 16, 0);
        ring.Set(0, Bus, 16, RawRing.Indirect | RawRing.Next, 1);
        ring.Set(1, Bus, 16, 0);
        ring.Offer(0);
        Expect(ring, RingError.IndirectInChain);
    }

    [TestMethod]
    public void Indirect_at_the_end_of_a_chain_is_legal_only_where_the_layout_has_it()
    {
        foreach (bool packed in (bool[])[false, true])
        {
            using var ring = new RawRing(packed);
            ring.SetEntry(0, Bus + 64, 16, 0);
            ring.Set(0, Bus, 16, RawRing.Next, 1);
            ring.Set(1, Bus, 16, RawRing.Indirect);
            ring.Offer(0);
            if (packed)
            {
                Expect(ring, RingError.IndirectInChain);
            }
            else
            {
                // virtio 1.3, 2.7.5.3.2 "Device Requirements: Indirect Descriptors".
                Assert.AreEqual(1, ring.Peek());
                Assert.AreEqual(32ul, ring.Chains[0].ReadableLength);
            }
        }
    }

    [TestMethod]
    [DataRow(false)]
    [DataRow(true)]
    public void Indirect_without_the_feature(bool packed)
    {
        using var ring = new RawRing(packed, VirtioFeatures.None);
        ring.SetEntry(0, Bus, 16, 0);
        ring.Set(0, Bus, 16, RawRing.Indirect);
        ring.Offer(0);
        Expect(ring, RingError.IndirectNotNegotiated);
    }

    [TestMethod]
    public void Split_table_entry_whose_next_is_outside_or_loops()
    {
        using (var ring = new RawRing(packed: false))
        {
            ring.SetEntry(0, Bus, 16, RawRing.Next, 2);
            ring.Set(0, Bus, 32, RawRing.Indirect);
            ring.Offer(0);
            Expect(ring, RingError.NextOutOfRange);
        }

        using (var ring = new RawRing(packed: false))
        {
            ring.SetEntry(0, Bus, 16, RawRing.Next, 0);
            ring.Set(0, Bus, 32, RawRing.Indirect);
            ring.Offer(0);
            Expect(ring, RingError.ChainTooLong);
        }
    }

    [TestMethod]
    [DataRow(false)]
    [DataRow(true)]
    public void More_segments_than_the_device_takes(bool packed)
    {
        using var ring = new RawRing(packed);
        ring.Translator.Piece = 1;
        ring.Set(0, Bus, (uint)ring.Segments.Length + 1, 0);
        ring.Offer(0);
        Expect(ring, RingError.TooManySegments);
    }

    [TestMethod]
    [DataRow(false)]
    [DataRow(true)]
    public void Chain_that_does_not_fit_behind_others_waits_for_the_next_batch(bool packed)
    {
        using var ring = new RawRing(packed);
        ring.Translator.Piece = 1;
        ring.Set(0, Bus, 40, 0);
        ring.Set(1, Bus, 40, RawRing.Write);
        ring.Offer(0, 1);
        Assert.AreEqual(1, ring.Peek());
        Assert.AreEqual(40, ring.Chains[0].Count);
        ring.Queue.Consume(ring.Chains.AsSpan(0, 1));
        Assert.AreEqual(1, ring.Peek());
        Assert.AreEqual(40ul, ring.Chains[0].WritableLength);
        Assert.AreEqual(RingError.None, ring.Queue.Error);
    }

    [TestMethod]
    [DataRow(false)]
    [DataRow(true)]
    public void Table_and_data_across_pieces_are_read_whole(bool packed)
    {
        foreach (ulong piece in (ulong[])[1, 7, 8, 24, 100])
        {
            using var ring = new RawRing(packed);
            ring.Translator.Piece = piece;
            // At an odd address, so that entries too lie across pieces.
            ring.SetEntry(35, Bus + 1000, 10, RawRing.Next, 1);
            ring.SetEntry(51, Bus + 2000, 20, RawRing.Write);
            ring.Set(0, Bus + 35, 32, RawRing.Indirect);
            ring.Offer(0);
            Assert.AreEqual(1, ring.Peek(), $"pieces of {piece}: {ring.Queue.Error}");
            DescriptorChain chain = ring.Chains[0];
            Assert.AreEqual((10ul, 20ul), (chain.ReadableLength, chain.WritableLength));
            HostAddress end = ring.Data.Address + 1000;
            foreach (HostSegment segment in chain.Readable(ring.Segments))
            {
                Assert.AreEqual(end, segment.Address);
                end += segment.Length;
            }

            Assert.AreEqual(ring.Data.Address + 1010, end);
        }
    }

    [TestMethod]
    [DataRow(false)]
    [DataRow(true)]
    public void Miss_is_no_error_and_the_rest_of_the_batch_is_asked_for_too(bool packed)
    {
        using var ring = new RawRing(packed);
        ring.Set(0, Bus, 16, 0);
        ring.Set(1, Bus + 2048, 16, RawRing.Next, 2);
        ring.Set(2, Bus + 3000, 16, 0);
        ring.Set(3, Bus + 4000, 16, 0);
        ring.Set(4, Bus + 16, 16, 0);
        ring.Offer(0, 1, 3, 4);
        ring.Translator.MissFrom = Bus + 2048;
        Assert.AreEqual(1, ring.Peek(), "what comes before the miss");
        Assert.IsTrue(ring.Queue.Missed);
        Assert.IsGreaterThanOrEqualTo(3, ring.Translator.Misses, "three ranges are missing");
        Assert.AreEqual(RingError.None, ring.Queue.Error);
        ring.Queue.Consume(ring.Chains.AsSpan(0, 1));
        ring.Translator.MissFrom = ulong.MaxValue;
        Assert.AreEqual(3, ring.Peek(), "in order, from the missed one on");
        Assert.IsFalse(ring.Queue.Missed);
        Assert.AreEqual(32ul, ring.Chains[0].ReadableLength);
    }

    [TestMethod]
    [DataRow(false)]
    [DataRow(true)]
    public void Change_between_check_and_use_is_not_seen(bool packed)
    {
        using var ring = new RawRing(packed);
        ring.Set(0, Bus, 16, 0);
        ring.Offer(0);
        Assert.AreEqual(1, ring.Peek());
        DescriptorChain chain = ring.Chains[0];
        ring.Set(0, 0xdead_0000, uint.MaxValue, RawRing.Write | RawRing.Indirect);
        Assert.AreEqual(16ul, chain.ReadableLength);
        Assert.AreEqual(new HostSegment(ring.Data.Address, 16), chain.Readable(ring.Segments)[0]);
        ring.Queue.Consume(ring.Chains.AsSpan(0, 1));
        ring.Queue.Complete([chain.Used(0)]);
        Assert.IsTrue(ring.Queue.Publish());
    }

    [TestMethod]
    public void Random_rings_touch_nothing_outside_and_end()
    {
        int seed = Random.Shared.Next();
        TestContext.WriteLine($"seed {seed}");
        var random = new Random(seed);
        var errors = new HashSet<RingError>();
        for (int round = 0; round < 20_000; round++)
        {
            errors.Add(RandomRing(random));
        }

        TestContext.WriteLine(string.Join(", ", errors));
        // The generator is of use only if it gets into every corner.
        Assert.IsGreaterThanOrEqualTo(12, errors.Count, $"seed {seed}: {string.Join(", ", errors)}");
    }

    public TestContext TestContext { get; set; } = null!;

    private static RingError RandomRing(Random random)
    {
        using var ring = new RawRing(random.Next(2) == 0, random.Next(8) == 0 ? VirtioFeatures.None : VirtioFeatures.RingIndirectDesc);
        ring.Translator.Piece = random.Next(3) == 0 ? (ulong)random.Next(1, 64) : ulong.MaxValue;
        ring.Translator.ReadOnlyFrom = random.Next(4) == 0 ? Bus + 2048 : ulong.MaxValue;
        ring.Translator.MissFrom = random.Next(4) == 0 ? Bus + 3072 : ulong.MaxValue;
        random.NextBytes(ring.Driver.Span);
        random.NextBytes(ring.Device.Span);
        bool wild = random.Next(3) == 0;
        for (int i = 0; i < RawRing.Size; i++)
        {
            ring.Set(i, Address(random), Length(random), wild ? random.Next(0x10000) : random.Next(8) & random.Next(8), random.Next(RawRing.Size + 1));
            ring.SetEntry(16 * i, Address(random), Length(random), random.Next(8) & random.Next(8), random.Next(RawRing.Size + 1));
        }

        ring.SetIndex((ushort)random.Next(wild ? 0x10000 : RawRing.Size + 1));
        for (int turn = 0; turn < 3; turn++)
        {
            int count = ring.Peek();
            int sum = 0;
            foreach (DescriptorChain chain in ring.Chains.AsSpan(0, count))
            {
                foreach (HostSegment segment in chain.Readable(ring.Segments))
                {
                    foreach (byte value in segment.Span)
                    {
                        sum ^= value;
                    }
                }

                foreach (HostSegment segment in chain.Writable(ring.Segments))
                {
                    segment.Span.Fill((byte)sum);
                }
            }

            ring.Queue.Consume(ring.Chains.AsSpan(0, count));
            ring.Queue.Complete([.. ring.Chains.Take(count).Select(c => c.Used((uint)Math.Min(c.WritableLength, uint.MaxValue)))]);
            _ = ring.Queue.Publish();
            _ = ring.Queue.EnableNotifications();
            ring.Queue.DisableNotifications();
        }

        return ring.Queue.Error;
    }

    private static ulong Address(Random random) => random.Next(8) switch
    {
        0 => (ulong)random.NextInt64(),
        1 => ulong.MaxValue - (ulong)random.Next(64),
        2 or 3 => Bus,
        _ => (ulong)((long)Bus + random.Next(-8, RawRing.DataBytes + 8)),
    };

    private static uint Length(Random random) => random.Next(8) switch
    {
        0 => (uint)random.Next(),
        1 => uint.MaxValue - (uint)random.Next(16),
        2 => 0,
        3 or 4 => (uint)(16 * random.Next(10)),
        _ => (uint)random.Next(1, 200),
    };

    private static void Expect(RawRing ring, RingError expected, int before = 0)
    {
        Assert.AreEqual(before, ring.Peek());
        Assert.AreEqual(expected, ring.Queue.Error);
        Assert.AreEqual(0, ring.Peek(), "it stays stopped");
        Assert.AreEqual(expected, ring.Queue.Error);
    }
}
