using Vfio.Linux;

namespace Vfio.VhostUser.Tests.Memory;

[TestClass]
public sealed unsafe class DirtyLogTests
{
    private const ulong Bytes = 4096;
    private const int Pages = (int)Bytes * 8;
    private const int Setters = 2;

    // Each marks every second page, so that both are always in the same words; the front-end takes what it finds meanwhile.
    [TestMethod]
    [DataRow(false)]
    [DataRow(true)]
    public void Setters_of_neighbouring_bits_lose_none(bool isHarvested)
    {
        using FileDescriptor file = MemoryFile.Create("log", Bytes);
        using var seen = MappedMemory.Map(file, 0, Bytes, writable: true);
        using var log = DirtyLog.Map(file, default, Bytes);
        ulong[] taken = new ulong[Bytes / sizeof(ulong)];
        for (int round = 0; round < 100; round++)
        {
            using var start = new Barrier(Setters + 1);
            Thread[] setters = [.. Enumerable.Range(0, Setters).Select(first => new Thread(() =>
            {
                start.SignalAndWait();
                for (int page = first; page < Pages; page += Setters)
                {
                    log.Mark(new GuestPhysicalAddress((ulong)page * DirtyLog.PageSize), 1);
                }
            }))];
            Array.ForEach(setters, s => s.Start());
            Array.Clear(taken);
            start.SignalAndWait();
            while (isHarvested && setters.Any(s => s.IsAlive))
            {
                Harvest(seen, taken);
            }

            Array.ForEach(setters, s => s.Join());
            Harvest(seen, taken);
            Assert.AreEqual(-1, taken.AsSpan().IndexOfAnyExcept(ulong.MaxValue), $"a bit was lost in round {round}");
        }
    }

    [TestMethod]
    public void Only_what_was_not_marked_yet_is_new()
    {
        using FileDescriptor file = MemoryFile.Create("log", Bytes);
        using var seen = MappedMemory.Map(file, 0, Bytes, writable: true);
        using var log = DirtyLog.Map(file, default, Bytes);
        var page = new GuestPhysicalAddress(63 * DirtyLog.PageSize);
        Assert.IsTrue(log.Mark(page, 1));
        Assert.IsFalse(log.Mark(page, DirtyLog.PageSize));
        // The next word.
        Assert.IsTrue(log.Mark(page, DirtyLog.PageSize + 1));
        Assert.IsFalse(log.Mark(page, 0));
        Assert.IsFalse(log.Mark(new GuestPhysicalAddress(Pages * (ulong)DirtyLog.PageSize), 1));
        Assert.AreEqual(1, log.Outside);
        Harvest(seen, new ulong[Bytes / sizeof(ulong)]);
        Assert.IsTrue(log.Mark(page, 1));
    }

    private static void Harvest(MappedMemory log, Span<ulong> taken)
    {
        for (int word = 0; word < taken.Length; word++)
        {
            taken[word] |= Interlocked.Exchange(ref ((ulong*)log.Address)[word], 0);
        }
    }
}
