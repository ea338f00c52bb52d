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
        StringAssert.Contains(MapsLine(memory), " r--s ");
        StringAssert.Contains(MapsLine(memory), "memfd:vfiopin-readonly");
    }

    [TestMethod]
    public void Anonymous_memory_is_zero_and_gone_after_dispose()
    {
        MappedMemory memory = MappedMemory.Anonymous(3 * 4096);
        Assert.AreEqual(-1, new Span<byte>((void*)memory.Address, 3 * 4096).IndexOfAnyExcept((byte)0));
        Assert.AreNotEqual(string.Empty, MapsLine(memory));
        memory.Dispose();
        memory.Dispose();
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
        int at = Array.FindIndex(lines, l => l.StartsWith($"{memory.Address:x}-", StringComparison.Ordinal));
        string flags = lines.Skip(at).First(l => l.StartsWith("VmFlags:", StringComparison.Ordinal));
        StringAssert.Contains(flags, " dc");
    }

    private static string MapsLine(MappedMemory memory) =>
        File.ReadLines("/proc/self/maps").FirstOrDefault(l => l.StartsWith($"{memory.Address:x}-", StringComparison.Ordinal)) ?? string.Empty;
}
