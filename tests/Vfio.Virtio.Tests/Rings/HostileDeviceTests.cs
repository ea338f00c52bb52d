using System.Buffers.Binary;

namespace Vfio.Virtio.Tests;

/// <summary>What a device can answer wrong, and that the driver side believes none of it.</summary>
[TestClass]
public sealed class HostileDeviceTests
{
    private const int Size = 8;

    [TestMethod]
    [DataRow(3u, 0u, RingError.UnknownBuffer, DisplayName = "never given out")]
    [DataRow((uint)Size, 0u, RingError.UnknownBuffer, DisplayName = "beyond the table")]
    [DataRow(uint.MaxValue, 0u, RingError.UnknownBuffer, DisplayName = "far beyond the table")]
    [DataRow(0u, 65u, RingError.UsedLengthTooLarge, DisplayName = "longer than it is")]
    [DataRow(0u, uint.MaxValue, RingError.UsedLengthTooLarge, DisplayName = "much longer than it is")]
    public void Split_used_element_that_cannot_be(uint id, uint written, RingError expected)
    {
        using RingPair pair = WithOneChain(VirtioFeatures.None);
        SplitUse(pair, 0, id, written);
        Expect(pair, expected);
    }

    [TestMethod]
    [DataRow(2)]
    [DataRow(0x8000)]
    [DataRow(0xFFFF)]
    public void Split_used_index_beyond_what_was_given_out(int index)
    {
        using RingPair pair = WithOneChain(VirtioFeatures.None);
        SplitUse(pair, 0, 0, 0);
        BinaryPrimitives.WriteUInt16LittleEndian(DeviceArea(pair)[2..], (ushort)index);
        Expect(pair, RingError.IndexJump);
    }

    [TestMethod]
    public void Split_same_chain_used_twice()
    {
        using RingPair pair = WithOneChain(VirtioFeatures.None);
        Assert.IsTrue(pair.Driver.TryAdd([pair.Segment(64, 64, DeviceAccess.Write)], out _));
        _ = pair.Driver.Publish();
        SplitUse(pair, 0, 0, 1);
        SplitUse(pair, 1, 0, 1);
        Completion[] completions = new Completion[4];
        Assert.AreEqual(1, pair.Driver.Reap(completions));
        Assert.AreEqual(RingError.UnknownBuffer, pair.Driver.Error);
    }

    [TestMethod]
    [DataRow(VirtioFeatures.None)]
    [DataRow(VirtioFeatures.RingPacked)]
    public void Chain_that_was_added_but_not_published(VirtioFeatures features)
    {
        using RingPair pair = WithOneChain(features);
        Assert.IsTrue(pair.Driver.TryAdd([pair.Segment(64, 64, DeviceAccess.Write)], out ushort id));
        if (features.HasFlag(VirtioFeatures.RingPacked))
        {
            PackedUse(pair, 0, id, 0, 0x8080);
        }
        else
        {
            SplitUse(pair, 0, id, 0);
        }

        Expect(pair, RingError.UnknownBuffer);
    }

    [TestMethod]
    [DataRow(3, 0u, 0x8080, RingError.UnknownBuffer)]
    [DataRow(0xFFFF, 0u, 0x8080, RingError.UnknownBuffer)]
    [DataRow(0, 65u, 0x8082, RingError.UsedLengthTooLarge)]
    [DataRow(0, uint.MaxValue, 0x8082, RingError.UsedLengthTooLarge)]
    public void Packed_used_descriptor_that_cannot_be(int id, uint written, int flags, RingError expected)
    {
        using RingPair pair = WithOneChain(VirtioFeatures.RingPacked);
        PackedUse(pair, 0, (ushort)id, written, (ushort)flags);
        Expect(pair, expected);
    }

    [TestMethod]
    public void Packed_length_counts_without_the_write_flag_only_where_it_fits()
    {
        // QEMU gives the length and sets no flag; the specification calls the length reserved then.
        foreach ((uint given, uint seen) in ((uint, uint)[])[(64, 64), (65, 0)])
        {
            using RingPair pair = WithOneChain(VirtioFeatures.RingPacked);
            PackedUse(pair, 0, 0, given, 0x8080);
            var completions = new Completion[2];
            Assert.AreEqual(1, pair.Driver.Reap(completions));
            Assert.AreEqual(seen, completions[0].Written);
        }
    }

    [TestMethod]
    public void Split_in_order_batch_is_one_element_for_all_up_to_its_id()
    {
        using var pair = new RingPair(Size, VirtioFeatures.InOrder);
        for (int i = 0; i < 5; i++)
        {
            Assert.IsTrue(pair.Driver.TryAdd([pair.Segment(64 * i, 64, DeviceAccess.Write)], out _));
        }

        _ = pair.Driver.Publish();
        // virtio 1.3, 2.7.9: one element for chains 0 to 2, at the batch's first place; then one for 3 and 4.
        SplitUse(pair, 0, 2, 7);
        BinaryPrimitives.WriteUInt16LittleEndian(DeviceArea(pair)[2..], 3);
        var completions = new Completion[2];
        Assert.AreEqual(2, pair.Driver.Reap(completions));
        Assert.AreEqual(new Completion(0, 64), completions[0], "skipped: taken as used whole");
        Assert.AreEqual(new Completion(1, 64), completions[1]);
        Assert.IsTrue(pair.Driver.HasCompletion);
        Assert.AreEqual(1, pair.Driver.Reap(completions));
        Assert.AreEqual(new Completion(2, 7), completions[0]);
        SplitUse(pair, 3, 4, 9);
        BinaryPrimitives.WriteUInt16LittleEndian(DeviceArea(pair)[2..], 5);
        Assert.AreEqual(2, pair.Driver.Reap(completions));
        Assert.AreEqual(new Completion(4, 9), completions[1]);
        Assert.AreEqual(Size, pair.Driver.FreeDescriptors);
    }

    [TestMethod]
    public void Split_in_order_batch_longer_than_the_index_moved()
    {
        using var pair = new RingPair(Size, VirtioFeatures.InOrder);
        for (int i = 0; i < 5; i++)
        {
            Assert.IsTrue(pair.Driver.TryAdd([pair.Segment(64 * i, 64, DeviceAccess.Write)], out _));
        }

        _ = pair.Driver.Publish();
        SplitUse(pair, 0, 4, 0);
        Expect(pair, RingError.UnknownBuffer);
    }

    [TestMethod]
    public void Random_answers_are_refused_or_plausible()
    {
        int seed = Random.Shared.Next();
        TestContext.WriteLine($"seed {seed}");
        var random = new Random(seed);
        for (int round = 0; round < 2_000; round++)
        {
            VirtioFeatures features = RingPair.AllFeatures.ElementAt(random.Next(16));
            using var pair = new RingPair(Size, features);
            var held = new Dictionary<ushort, int>();
            for (int turn = 0; turn < 20 && pair.Driver.Error == RingError.None; turn++)
            {
                int length = random.Next(1, 200);
                if (pair.Driver.TryAdd([pair.Segment(0, length, DeviceAccess.Write)], out ushort id))
                {
                    Assert.IsTrue(held.TryAdd(id, length), $"seed {seed}: {id} given out twice");
                }

                _ = pair.Driver.Publish();
                Span<byte> ring = pair.Ring.Span;
                for (int i = 0; i < 8; i++)
                {
                    // Small numbers are where ids and indices are.
                    ring[random.Next(ring.Length)] = (byte)(random.Next(3) == 0 ? random.Next(256) : random.Next(Size));
                }

                var completions = new Completion[4];
                foreach (Completion completion in completions.AsSpan(0, pair.Driver.Reap(completions)))
                {
                    Assert.IsTrue(held.Remove(completion.Id, out int given), $"seed {seed}: {completion.Id} is not out");
                    Assert.IsLessThanOrEqualTo((uint)given, completion.Written, $"seed {seed}");
                }

                Assert.AreEqual(held.Count, pair.Driver.Outstanding, $"seed {seed}");
            }
        }
    }

    public TestContext TestContext { get; set; } = null!;

    private static RingPair WithOneChain(VirtioFeatures features)
    {
        var pair = new RingPair(Size, features);
        Assert.IsTrue(pair.Driver.TryAdd([pair.Segment(0, 64, DeviceAccess.Write)], out ushort id));
        Assert.AreEqual(0, id);
        Assert.IsTrue(pair.Driver.Publish());
        return pair;
    }

    private static Span<byte> DeviceArea(RingPair pair) =>
        pair.Ring.Span[(int)(pair.Driver.Addresses.Device - pair.Ring.Address)..];

    private static void SplitUse(RingPair pair, int index, uint id, uint written)
    {
        Span<byte> used = DeviceArea(pair);
        BinaryPrimitives.WriteUInt32LittleEndian(used[(4 + (8 * index))..], id);
        BinaryPrimitives.WriteUInt32LittleEndian(used[(8 + (8 * index))..], written);
        BinaryPrimitives.WriteUInt16LittleEndian(used[2..], (ushort)(index + 1));
    }

    private static void PackedUse(RingPair pair, int slot, ushort id, uint written, ushort flags)
    {
        BinaryPrimitives.WriteUInt64LittleEndian(
            pair.Ring.Span[((16 * slot) + 8)..], written | ((ulong)id << 32) | ((ulong)flags << 48));
    }

    private static void Expect(RingPair pair, RingError expected)
    {
        var completions = new Completion[4];
        Assert.AreEqual(0, pair.Driver.Reap(completions));
        Assert.AreEqual(expected, pair.Driver.Error);
        Assert.AreEqual(0, pair.Driver.Reap(completions), "it stays stopped");
    }
}
