using System.Buffers.Binary;
using System.Runtime.CompilerServices;
using Vfio.Linux;

namespace Vfio.Tests;

[TestClass]
public sealed class PinnedPoolConcurrencyTests
{
    private static PinnedPoolOptions Options(ulong size, bool isChecked = false) => new()
    {
        Name = "test",
        Size = size,
        Backings = [MemoryBacking.Pages4KiB],
        BufferSize = 4096,
        Checked = isChecked,
    };

    [TestMethod]
    public void No_buffer_is_ever_lent_to_two_while_threads_rent_return_grow_and_shrink()
    {
        using PinnedPool pool = PinnedPool.Create(Options(1 << 20));
        int failures = 0;
        bool stop = false;
        Thread[] threads = [.. Enumerable.Range(1, 4).Select(t => new Thread(() =>
        {
            var random = new Random(t);
            var held = new List<PinnedBuffer>();
            for (int i = 0; i < 60_000; i++)
            {
                if (held.Count < 40 && random.Next(2) == 0)
                {
                    if (pool.TryRent(out PinnedBuffer buffer))
                    {
                        // Whoever holds it writes its name; anybody else's means that two hold it.
                        BinaryPrimitives.WriteInt32LittleEndian(buffer.Span, t);
                        held.Add(buffer);
                    }
                }
                else if (held.Count > 0)
                {
                    int at = random.Next(held.Count);
                    if (BinaryPrimitives.ReadInt32LittleEndian(held[at].Span) != t)
                    {
                        Interlocked.Increment(ref failures);
                    }

                    pool.Return(held[at]);
                    held.RemoveAt(at);
                }
            }

            held.ForEach(b => pool.Return(b));
        }))];
        var changer = new Thread(() =>
        {
            while (!Volatile.Read(ref stop))
            {
                pool.Grow(1 << 18);
                _ = pool.Use();
                while (!Volatile.Read(ref stop))
                {
                    try
                    {
                        pool.Shrink(1 << 18);
                        break;
                    }
                    catch (LinuxException e) when (e.Errno == Errno.EBUSY)
                    {
                        Thread.Yield();
                    }
                }
            }
        });
        changer.Start();
        Array.ForEach(threads, t => t.Start());
        Array.ForEach(threads, t => t.Join());
        Volatile.Write(ref stop, true);
        changer.Join();
        Assert.AreEqual(0, failures);
        Assert.AreEqual(0ul, pool.Use().Bytes);

        // And none was lost.
        var all = new HashSet<HostAddress>();
        var rented = new List<PinnedBuffer>();
        while (pool.TryRent(out PinnedBuffer buffer))
        {
            Assert.IsTrue(all.Add(buffer.Address));
            rented.Add(buffer);
        }

        Assert.AreEqual(pool.Length / 4096, (ulong)all.Count);
        rented.ForEach(b => pool.Return(b));
    }

    [TestMethod]
    public void A_thread_that_only_rents_is_fed_by_one_that_only_returns()
    {
        using PinnedPool pool = PinnedPool.Create(Options(1 << 20));
        var queue = new System.Collections.Concurrent.BlockingCollection<PinnedBuffer>(64);
        var returner = new Thread(() =>
        {
            foreach (PinnedBuffer buffer in queue.GetConsumingEnumerable())
            {
                pool.Return(buffer);
            }
        });
        returner.Start();
        for (int i = 0; i < 20_000; i++)
        {
            PinnedBuffer buffer;
            while (!pool.TryRent(out buffer))
            {
                Thread.Yield();
            }

            queue.Add(buffer);
        }

        queue.CompleteAdding();
        returner.Join();
        Assert.AreEqual(0ul, pool.Use().Bytes);
    }

    [TestMethod]
    public void A_checked_pool_finds_misuse_and_names_who_did_it()
    {
        using PinnedPool pool = PinnedPool.Create(Options(1 << 20, isChecked: true));
        PinnedBuffer buffer = RentHere(pool);
        Assert.Contains(nameof(A_checked_pool_finds_misuse_and_names_who_did_it), pool.Use().Renters.Single());
        pool.Return(buffer);
        LinuxException twice = Assert.ThrowsExactly<LinuxException>(() => pool.Return(buffer));
        Assert.Contains("returned before, by", twice.Message);
        Assert.Contains(nameof(RentHere), twice.Message);

        buffer.Span[17] = 1;
        LinuxException late = Assert.ThrowsExactly<LinuxException>(() => pool.Rent());
        Assert.Contains("byte 17 was written after the buffer, rented by", late.Message);
        Assert.Contains(nameof(RentHere), late.Message);
        pool.Return(buffer);

        Assert.ThrowsExactly<ArgumentException>(() => pool.Return(buffer with { Address = new HostAddress(4096) }));
        Assert.ThrowsExactly<ArgumentException>(() => pool.Return(buffer.Slice(0, 100)));
        Assert.ThrowsExactly<ArgumentException>(() => pool.Return(buffer.Slice(64, 64)));
        PinnedBuffer never = buffer with { Address = buffer.Address + (8 * 4096) };
        Assert.Contains("never rented", Assert.ThrowsExactly<LinuxException>(() => pool.Return(never)).Message);
        using PinnedPool other = PinnedPool.Create(Options(1 << 20, isChecked: true));
        PinnedBuffer foreign = other.Rent();
        Assert.ThrowsExactly<ArgumentException>(() => pool.Return(foreign));
        other.Return(foreign);
    }

    // Whose name is told.
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static PinnedBuffer RentHere(PinnedPool pool) => pool.Rent();
}
