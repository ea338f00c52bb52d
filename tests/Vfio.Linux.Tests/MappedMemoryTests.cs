using System.Globalization;

namespace Vfio.Linux.Tests;

[TestClass]
public sealed unsafe class MappedMemoryTests
{
    [TestMethod]
    public void File_is_shared_between_its_mappings()
    {
        using FileDescriptor file = MemoryFile.Create("test", 8192);
        using MappedMemory first = MappedMemory.Map(file, 0, 8192, writable: true);
        using MappedMemory second = MappedMemory.Map(file, 4096, 4096, writable: false);
        ((byte*)first.Address)[4096 + 17] = 42;
        Assert.AreEqual(42, ((byte*)second.Address)[17]);
        Assert.AreEqual(4096ul, second.Length);
    }

    [TestMethod]
    public void Read_only_mapping_has_no_write_in_proc_maps()
    {
        using FileDescriptor file = MemoryFile.Create("vfiopin-readonly", 4096);
        using MappedMemory memory = MappedMemory.Map(file, 0, 4096, writable: false);
        StringAssert.Contains(MapsLine((ulong)memory.Address), " r--s ");
        StringAssert.Contains(MapsLine((ulong)memory.Address), "memfd:vfiopin-readonly");
    }

    [TestMethod]
    public void Anonymous_memory_is_zero_and_gone_after_dispose()
    {
        // So large that nothing else is mapped over its first page right after: the kernel fills a gap from its top.
        MappedMemory memory = MappedMemory.Anonymous(1ul << 30);
        ulong address = (ulong)memory.Address;
        Assert.AreEqual(-1, new Span<byte>((void*)memory.Address, 3 * 4096).IndexOfAnyExcept((byte)0));
        StringAssert.Contains(MapsLine(address), " rw-p ");
        memory.Dispose();
        memory.Dispose();
        Assert.AreEqual(string.Empty, MapsLine(address));
        Assert.ThrowsExactly<ObjectDisposedException>(() => memory.Address);
    }

    [TestMethod]
    public void Refused_mapping_names_the_call_and_the_range()
    {
        using FileDescriptor file = MemoryFile.Create("test", 4096);
        LinuxException e = Assert.ThrowsExactly<LinuxException>(() => MappedMemory.Map(file, 1, 4096, writable: true));
        Assert.AreEqual(Errno.EINVAL, e.Errno);
        Assert.AreEqual("mmap: EINVAL (22): 4096 bytes at offset 0x1", e.Message);
    }

    [TestMethod]
    public void Advice_outside_of_the_mapping_is_refused()
    {
        using MappedMemory memory = MappedMemory.Anonymous(8192);
        Assert.ThrowsExactly<ArgumentOutOfRangeException>(() => memory.Advise(Mman.MADV_DONTNEED, "MADV_DONTNEED", 4096, 8192));
        Assert.ThrowsExactly<ArgumentOutOfRangeException>(() => memory.Advise(Mman.MADV_DONTNEED, "MADV_DONTNEED", 8193, 0));
        *(byte*)memory.Address = 1;
        memory.Advise(Mman.MADV_DONTNEED, "MADV_DONTNEED", 0, 8192);
        Assert.AreEqual(0, *(byte*)memory.Address);
        LinuxException e = Assert.ThrowsExactly<LinuxException>(() => memory.Advise(12345, "MADV_12345", 0, 4096));
        StringAssert.StartsWith(e.Message, "madvise(MADV_12345): EINVAL (22)");
    }

    [TestMethod]
    public void Memory_kept_from_children_is_marked_so()
    {
        using MappedMemory memory = MappedMemory.Anonymous(4096);
        memory.ExcludeFromFork();
        string[] lines = File.ReadAllLines("/proc/self/smaps");
        int at = Array.FindIndex(lines, l => Holds(l, (ulong)memory.Address));
        string flags = lines.Skip(at).First(l => l.StartsWith("VmFlags:", StringComparison.Ordinal));
        StringAssert.Contains(flags, " dc");
    }

    private static string MapsLine(ulong address) =>
        File.ReadAllLines("/proc/self/maps").FirstOrDefault(l => Holds(l, address)) ?? string.Empty;

    /// <summary>Whether a line of maps or smaps is of the mapping that an address is in. Private memory of no file may be part of a
    /// larger mapping: the kernel merges neighbours (<c>vma_merge</c>).</summary>
    private static bool Holds(string line, ulong address)
    {
        string[] ends = line.Split(' ')[0].Split('-');
        return ends.Length == 2
            && ulong.TryParse(ends[0], NumberStyles.HexNumber, CultureInfo.InvariantCulture, out ulong start)
            && ulong.TryParse(ends[1], NumberStyles.HexNumber, CultureInfo.InvariantCulture, out ulong end)
            && start <= address && address < end;
    }
}
