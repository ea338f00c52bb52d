using System.Buffers;
using Vfio.Linux;

namespace Vfio.Tests;

[TestClass]
public sealed class PinnedPoolTests
{
    private static PinnedPoolOptions Options(ulong size = 4 << 20, int bufferSize = 4096, bool isChecked = false, MemoryBacking backing = MemoryBacking.Pages4KiB) => new()
    {
        Name = "test",
        Size = size,
        Backings = [backing],
        BufferSize = bufferSize,
        Checked = isChecked,
    };

    [TestMethod]
    public void All_buffers_can_be_rented_once_and_do_not_overlap()
    {
        using PinnedPool pool = PinnedPool.Create(Options());
        var rented = new List<PinnedBuffer>();
        while (pool.TryRent(out PinnedBuffer buffer))
        {
            buffer.Span.Fill(unchecked((byte)rented.Count));
            rented.Add(buffer);
        }

        Assert.HasCount(1024, rented);
        Assert.HasCount(1024, rented.Select(b => b.Address).Distinct());
        for (int i = 0; i < rented.Count; i++)
        {
            Assert.IsFalse(rented[i].Span.ContainsAnyExcept(unchecked((byte)i)));
        }

        LinuxException full = Assert.ThrowsExactly<LinuxException>(() => pool.Rent());
        Assert.Contains("pool grow", full.Message);
        rented.ForEach(b => pool.Return(b));
        Assert.AreEqual(0ul, pool.Use().Bytes);
    }

    [TestMethod]
    public void The_last_buffer_returned_is_the_first_rented()
    {
        using PinnedPool pool = PinnedPool.Create(Options());
        PinnedBuffer a = pool.Rent();
        PinnedBuffer b = pool.Rent();
        pool.Return(a);
        pool.Return(b);
        Assert.AreEqual(b, pool.Rent());
        Assert.AreEqual(a, pool.Rent());
        pool.Return(a);
        pool.Return(b);
    }

    [TestMethod]
    public void Shrinking_by_several_segments_of_which_one_is_in_use_changes_nothing()
    {
        using PinnedPool pool = PinnedPool.Create(Options());
        pool.Grow(4 << 20);
        pool.Grow(4 << 20);
        PinnedBuffer first = pool.Allocate(4 << 20);
        PinnedBuffer second = pool.Allocate(4 << 20);
        LinuxException busy = Assert.ThrowsExactly<LinuxException>(() => pool.Shrink(8 << 20));
        Assert.AreEqual(Errno.EBUSY, busy.Errno);
        Assert.AreEqual(12ul << 20, pool.Length);
        // In service, too.
        pool.Free(pool.Allocate(4 << 20));
        pool.Free(second);
        pool.Shrink(8 << 20);
        Assert.AreEqual(4ul << 20, pool.Length);
        pool.Free(first);
    }

    [TestMethod]
    [DataRow(-1)]
    [DataRow(63)]
    [DataRow(64)]
    public void A_node_that_the_machine_has_not_is_told_of_and_does_no_harm(int node)
    {
        using PinnedPool pool = PinnedPool.Create(Options() with { Node = node });
        Assert.AreEqual(Errno.EINVAL, pool.Segments[0].NodeRefused);
    }

    [TestMethod]
    public void Destroy_of_a_pool_in_use_is_refused_and_changes_nothing()
    {
        PinnedPool pool = PinnedPool.Create(Options(isChecked: true));
        PinnedBuffer buffer = pool.Rent();
        PinnedBuffer piece = pool.Allocate(10_000);
        LinuxException e = Assert.ThrowsExactly<LinuxException>(pool.Destroy);
        Assert.AreEqual(Errno.EBUSY, e.Errno);
        Assert.Contains("1 buffers and 1 pieces", e.Message);
        Assert.Contains(nameof(Destroy_of_a_pool_in_use_is_refused_and_changes_nothing), e.Message);
        buffer.Span.Fill(1);
        piece.Span.Fill(2);
        pool.Free(piece);
        pool.Return(buffer);
        pool.Destroy();
        Assert.AreEqual(0ul, pool.Length);
        pool.Destroy();
    }

    [TestMethod]
    public void Free_buffers_make_room_for_a_piece_and_pieces_for_buffers()
    {
        using PinnedPool pool = PinnedPool.Create(Options(size: 1 << 20));
        var rented = new List<PinnedBuffer>();
        while (pool.TryRent(out PinnedBuffer buffer))
        {
            rented.Add(buffer);
        }

        rented.ForEach(b => pool.Return(b));
        PinnedBuffer all = pool.Allocate(1 << 20);
        Assert.IsFalse(pool.TryRent(out _));
        Assert.ThrowsExactly<LinuxException>(() => pool.Allocate(1));
        pool.Free(all);
        Assert.IsTrue(pool.TryRent(out PinnedBuffer again));
        pool.Return(again);
    }

    // Pieces lie at the high end and buffers at the low one, or a pool could not shrink.
    [TestMethod]
    public void Buffers_are_cut_from_the_low_end_though_a_piece_of_their_size_was_just_freed()
    {
        using PinnedPool pool = PinnedPool.Create(Options(size: 4 << 20));
        pool.Free(pool.Allocate(64 * 4096));
        PinnedBuffer buffer = pool.Rent();
        pool.Shrink(2 << 20);
        Assert.AreEqual(2ul << 20, pool.Length);
        pool.Return(buffer);
    }

    [TestMethod]
    public void Renting_and_returning_allocates_nothing()
    {
        using PinnedPool pool = PinnedPool.Create(Options());
        var held = new PinnedBuffer[200];
        Round();
        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < 500; i++)
        {
            Round();
        }

        Assert.AreEqual(0, GC.GetAllocatedBytesForCurrentThread() - before);

        void Round()
        {
            for (int i = 0; i < held.Length; i++)
            {
                pool.TryRent(out held[i]);
            }

            for (int i = 0; i < held.Length; i++)
            {
                pool.Return(held[i]);
            }
        }
    }

    [TestMethod]
    public void What_is_rented_as_memory_counts_as_written_until_it_is_returned_and_once_after()
    {
        using PinnedPool pool = PinnedPool.Create(new PinnedPoolOptions
        {
            Name = "test",
            Size = 1 << 20,
            Backings = [MemoryBacking.Pages4KiB],
            BufferSize = 8192,
            // Which would write returned buffers itself.
            Checked = false,
        });
        using var memoryPool = new PinnedMemoryPool(pool);
        IMemoryOwner<byte> owner = memoryPool.Rent();
        ulong offset = ((PinnedMemoryOwner)owner).Buffer.Address - pool.Segments[0].Address;
        owner.Memory.Span[5000] = 1;
        // Written before this answer, and perhaps after it: it stays in the record.
        Expect(DirtyPrecision.Superset, inFlight: 2, pool.Dirty!.Harvest());
        owner.Memory.Span[5001] = 2;
        owner.Dispose();
        Expect(DirtyPrecision.Superset, inFlight: 0, pool.Dirty.Harvest());
        DirtyAnswer clean = pool.Dirty.Harvest();
        Assert.AreEqual((DirtyPrecision.Exact, 0ul), (clean.Precision, clean.DirtyPages));
        owner.Dispose();
        Assert.AreEqual(0ul, pool.Dirty.Peek().DirtyPages);

        // Returned before anybody asked.
        owner = memoryPool.Rent();
        offset = ((PinnedMemoryOwner)owner).Buffer.Address - pool.Segments[0].Address;
        owner.Dispose();
        Expect(DirtyPrecision.Superset, inFlight: 0, pool.Dirty.Harvest());

        void Expect(DirtyPrecision precision, ulong inFlight, DirtyAnswer answer)
        {
            DirtyRange range = answer.Ranges().Single();
            Assert.AreEqual((precision, inFlight, offset, 8192ul), (answer.Precision, answer.InFlightPages, range.First.Value, range.Length));
        }
    }

    [TestMethod]
    public void As_a_memory_pool_it_lends_memory_that_goes_back_once()
    {
        using PinnedPool pool = PinnedPool.Create(Options());
        using var memoryPool = new PinnedMemoryPool(pool);
        Assert.AreEqual(4096, memoryPool.MaxBufferSize);
        var owner = (PinnedMemoryOwner)memoryPool.Rent(100);
        owner.Memory.Span.Fill(3);
        Assert.AreEqual(3, owner.Buffer.Span[4095]);
        using (System.Buffers.MemoryHandle handle = owner.Memory.Pin())
        {
            unsafe
            {
                Assert.AreEqual(owner.Buffer.Address.Value, (ulong)handle.Pointer);
            }
        }

        Assert.AreEqual(1, pool.Use().Buffers);
        ((IDisposable)owner).Dispose();
        ((IDisposable)owner).Dispose();
        Assert.AreEqual(0, pool.Use().Buffers);
        Assert.ThrowsExactly<ObjectDisposedException>(() => owner.Buffer);
        Assert.ThrowsExactly<ArgumentOutOfRangeException>(() => memoryPool.Rent(4097));
    }

    [TestMethod]
    [DataRow(MemoryBacking.Pages4KiB)]
    [DataRow(MemoryBacking.Transparent)]
    public void What_pages_were_got_is_reported(MemoryBacking backing)
    {
        using PinnedPool pool = PinnedPool.Create(Options(size: 8 << 20, backing: backing) with { Node = 0 });
        PoolSegment segment = pool.Segments[0];
        Assert.AreEqual(0ul, segment.Address.Value % backing.PageSize());
        Assert.AreEqual(backing, segment.Backing);
        Assert.IsNotNull(segment.Placement);
        Assert.AreEqual(4096ul, segment.Placement.PageSize);
        Assert.IsTrue(backing == MemoryBacking.Transparent || segment.Placement.TransparentBytes == 0);
        // A kernel without NUMA tells no nodes, and then took no wish either.
        Assert.IsTrue(segment.NodeRefused != Errno.None || segment.Placement.NodeBytes[0] == segment.Length);
    }
}
