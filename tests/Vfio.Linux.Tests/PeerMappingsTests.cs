namespace Vfio.Linux.Tests;

/// <summary>Memory of a peer that goes away under its mapping.</summary>
[TestClass]
public sealed unsafe class PeerMappingsTests
{
    private const ulong Length = 64 << 10;

    [TestMethod]
    public void Memory_that_was_taken_away_reads_as_zero_and_can_be_written_and_the_peer_is_cut_off()
    {
        (UnixSocket ours, UnixSocket theirs) = UnixSocket.Pair();
        using (ours)
        using (theirs)
        {
            using FileDescriptor file = MemoryFile.Create("lost", Length, canShrink: true);
            using FileDescriptor other = MemoryFile.Create("kept", Length);
            using var mappings = new PeerMappings(ours);
            using GuardedMapping lost = GuardedMapping.Map(file, new FileRange(0, Length), 4096, mappings);
            using GuardedMapping kept = GuardedMapping.Map(other, new FileRange(0, Length), 4096, mappings);
            Bytes(lost).Fill(1);
            Bytes(kept).Fill(2);
            Assert.AreEqual(0, LibC.ftruncate(file.Number, 4096));
            Assert.AreEqual(0, mappings.Losses);

            // Reads by the runtime's own copy routines, in the middle of a page and over its end.
            byte[] copy = new byte[6000];
            Bytes(lost).Slice(3000, 6000).CopyTo(copy);
            Assert.AreEqual(1, mappings.Losses);
            Assert.IsTrue(copy.AsSpan(1096).IndexOfAnyExcept((byte)0) < 0);
            // All of the mapping is ours now: nothing that is written reaches the peer.
            Bytes(lost).Fill(3);
            Assert.AreEqual(-1, Bytes(lost).IndexOfAnyExcept((byte)3));
            Assert.AreEqual(-1, Bytes(kept).IndexOfAnyExcept((byte)2));
            Assert.AreEqual(1, mappings.Losses);
            Assert.AreEqual(0, theirs.Receive(new byte[1], new ReceivedDescriptors()));
            Assert.IsTrue(ReadFile(file, 4096).AsSpan().IndexOfAnyExcept((byte)1) < 0);
        }
    }

    [TestMethod]
    public void Writes_and_atomic_operations_go_on_too()
    {
        foreach (Action<GuardedMapping> access in (Action<GuardedMapping>[])
            [
                m => *(long*)(m.Address + 8192) = 7,
                m => Interlocked.Or(ref *(long*)(m.Address + 8192), 7),
                m => Interlocked.CompareExchange(ref *(long*)(m.Address + 8192), 7, 0),
                m => Bytes(m)[4096..12288].Fill(7),
            ])
        {
            using FileDescriptor file = MemoryFile.Create("lost", Length, canShrink: true);
            using var mappings = new PeerMappings();
            using GuardedMapping mapping = GuardedMapping.Map(file, new FileRange(0, Length), 4096, mappings);
            Assert.AreEqual(0, LibC.ftruncate(file.Number, 0));
            access(mapping);
            Assert.AreEqual(7, *(byte*)(mapping.Address + 8192));
            Assert.AreEqual(1, mappings.Losses);
        }
    }

    [TestMethod]
    public void A_second_view_is_watched_by_itself()
    {
        using FileDescriptor file = MemoryFile.Create("lost", Length, canShrink: true);
        using var mappings = new PeerMappings();
        using GuardedMapping mapping = GuardedMapping.Map(file, new FileRange(0, Length), 4096, mappings);
        using StitchedMemory view = StitchedMemory.Make(
            mappings, (mapping.Address + 8192, 4096ul), (mapping.Address, 4096ul), (mapping.Address + 16384, 100ul));
        *(int*)view.Address = 5;
        Assert.AreEqual(5, *(int*)(mapping.Address + 8192));
        Assert.AreEqual(0, LibC.ftruncate(file.Number, 0));
        Assert.AreEqual(0, *(int*)(view.Address + 4096));
        Assert.AreEqual(1, mappings.Losses);
        Assert.AreEqual(0, *(int*)mapping.Address);
        Assert.AreEqual(2, mappings.Losses);
    }

    [TestMethod]
    public void A_part_that_starts_inside_a_page_is_found_and_watched()
    {
        using FileDescriptor file = MemoryFile.Create("lost", Length, canShrink: true);
        using var mappings = new PeerMappings();
        using GuardedMapping all = GuardedMapping.Map(file, new FileRange(0, Length), 4096, mappings);
        ((byte*)all.Address)[9000] = 9;
        using GuardedMapping part = GuardedMapping.Map(file, new FileRange(9000, 5000), 4096, mappings);
        Assert.AreEqual(9, *(byte*)part.Address);
        Assert.AreEqual(0, LibC.ftruncate(file.Number, 0));
        Assert.AreEqual(0, *(byte*)part.Address);
        Assert.AreEqual(0, ((byte*)part.Address)[4999]);
        Assert.AreEqual(1, mappings.Losses);
    }

    [TestMethod]
    public void Threads_lose_memory_while_others_map_and_unmap_theirs()
    {
        const int Rounds = 400;
        using var ready = new Barrier(3);
        long seen = 0;
        var threads = new Thread[3];
        for (int t = 0; t < threads.Length; t++)
        {
            threads[t] = new Thread(() =>
            {
                ready.SignalAndWait();
                for (int i = 0; i < Rounds; i++)
                {
                    using FileDescriptor file = MemoryFile.Create("lost", Length, canShrink: true);
                    using var mappings = new PeerMappings();
                    using GuardedMapping mapping = GuardedMapping.Map(file, new FileRange(0, Length), 4096, mappings);
                    _ = LibC.ftruncate(file.Number, 0);
                    Interlocked.Add(ref seen, *(byte*)(mapping.Address + (i % 16 * 4096)) == 0 ? mappings.Losses : 0);
                }
            });
            threads[t].Start();
        }

        foreach (Thread thread in threads)
        {
            thread.Join();
        }

        Assert.AreEqual(threads.Length * Rounds, seen);
    }

    [TestMethod]
    public void Threads_that_find_out_at_the_same_time_all_go_on()
    {
        const int Threads = 4;
        using FileDescriptor file = MemoryFile.Create("lost", Length, canShrink: true);
        using var mappings = new PeerMappings();
        using GuardedMapping mapping = GuardedMapping.Map(file, new FileRange(0, Length), 4096, mappings);
        using var ready = new Barrier(Threads + 1);
        nint address = mapping.Address;
        bool stop = false;
        long rounds = 0;
        Thread[] threads = [.. Enumerable.Range(0, Threads).Select(t => new Thread(() =>
        {
            ready.SignalAndWait();
            byte[] copy = new byte[Length];
            while (!Volatile.Read(ref stop))
            {
                new Span<byte>((void*)address, (int)Length).CopyTo(copy);
                ((byte*)address)[t] = 1;
                Interlocked.Increment(ref rounds);
            }
        }))];
        Array.ForEach(threads, t => t.Start());
        ready.SignalAndWait();
        Assert.AreEqual(0, LibC.ftruncate(file.Number, 0));
        long before = Interlocked.Read(ref rounds);
        Assert.IsTrue(SpinWait.SpinUntil(() => Interlocked.Read(ref rounds) > before + (10 * Threads), TimeSpan.FromSeconds(60)));
        Volatile.Write(ref stop, true);
        Array.ForEach(threads, t => t.Join());
        // Each found out once at most: what replaced the mapping stays.
        Assert.IsTrue(mappings.Losses is >= 1 and <= Threads, $"{mappings.Losses}");
    }

    [TestMethod]
    public void A_peer_has_no_more_than_its_limits_and_gets_back_what_it_gives()
    {
        using FileDescriptor file = MemoryFile.Create("peer", Length);
        using var mappings = new PeerMappings(limits: new MappingLimits(4 * Length, 9));
        var range = new FileRange(0, Length);
        GuardedMapping first = GuardedMapping.Map(file, range, 4096, mappings);
        using GuardedMapping second = GuardedMapping.Map(file, range, 4096, mappings);
        using GuardedMapping third = GuardedMapping.Map(file, range, 4096, mappings);
        // A fourth would be too many mappings.
        LinuxException refused = Assert.ThrowsExactly<LinuxException>(() => GuardedMapping.Map(file, range, 4096, mappings));
        Assert.AreEqual(Errno.ENOMEM, refused.Errno);
        StringAssert.Contains(refused.Cause, "9 mappings", StringComparison.Ordinal);
        Assert.ThrowsExactly<LinuxException>(() => StitchedMemory.Make(mappings, (second.Address, 4096ul)));
        first.Dispose();
        using StitchedMemory view = StitchedMemory.Make(mappings, (second.Address, 4096ul));
        Assert.AreEqual(9, mappings.Mappings);

        using var large = new PeerMappings(limits: new MappingLimits(Length, 100));
        Assert.ThrowsExactly<LinuxException>(() => GuardedMapping.Map(file, range, 4096, large));
        Assert.AreEqual(0ul, large.Bytes);
        Assert.AreEqual(0, large.Mappings);
    }

    [TestMethod]
    public void Limits_leave_half_of_what_the_process_may_have()
    {
        Assert.IsTrue(MappingLimits.Peer.Bytes < MappingLimits.Process.Bytes);
        // Room for as many regions as a front-end is promised, three mappings each.
        Assert.IsGreaterThan(3 * 509, MappingLimits.Peer.Mappings);
        Assert.IsLessThanOrEqualTo(64ul << 40, MappingLimits.Process.Bytes);
    }

    [TestMethod]
    public void A_fault_in_memory_of_nobodys_ends_the_process_as_it_did_before()
    {
        (int code, string error) before = FaultingChild.Run(FaultingChild.Plain);
        (int code, string error) watched = FaultingChild.Run(FaultingChild.Watched);
        Assert.AreNotEqual(0, before.code);
        Assert.AreEqual(before.code, watched.code, watched.error);
        Assert.AreEqual((0, string.Empty), FaultingChild.Run(FaultingChild.Inside));
    }

    private static Span<byte> Bytes(GuardedMapping mapping) => new((void*)mapping.Address, (int)mapping.Length);

    private static byte[] ReadFile(FileDescriptor file, int length)
    {
        var bytes = new byte[length];
        fixed (byte* buffer = bytes)
        {
            Assert.AreEqual(length, (int)LibC.pread(file.Number, buffer, (nuint)length, 0));
        }

        return bytes;
    }
}
