namespace Vfio.Linux.Tests;

[TestClass]
public sealed class MemoryFileTests
{
    [TestMethod]
    public void Size_is_sealed_both_ways()
    {
        using FileDescriptor file = MemoryFile.Create("test", 8192);
        const int Seals = Fcntl.F_SEAL_SHRINK | Fcntl.F_SEAL_GROW;
        Assert.AreEqual(Seals, LibC.fcntl(file.Number, Fcntl.F_GET_SEALS, 0) & Seals);
        foreach (long length in (long[])[4096, 16384])
        {
            Assert.AreEqual(-1, LibC.ftruncate(file.Number, length));
            Assert.AreEqual(Errno.EPERM, (Errno)LibC.errno);
        }
    }

    [TestMethod]
    public void File_is_closed_in_executed_programs()
    {
        using FileDescriptor file = MemoryFile.Create("test", 4096);
        const int CloseOnExec = 1;
        Assert.AreEqual(CloseOnExec, LibC.fcntl(file.Number, Fcntl.F_GETFD, 0));
    }

    [TestMethod]
    public void Page_size_that_does_not_exist_is_refused() =>
        Assert.ThrowsExactly<ArgumentOutOfRangeException>(() => MemoryFile.Create("test", 4096, 8192));
}
