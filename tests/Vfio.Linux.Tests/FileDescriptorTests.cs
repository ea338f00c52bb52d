namespace Vfio.Linux.Tests;

[TestClass]
public sealed class FileDescriptorTests
{
    [TestMethod]
    public void Dispose_closes_once()
    {
        FileDescriptor file = FileDescriptor.Open(LinuxKernel.Instance, "/dev/null", Fcntl.O_RDONLY);
        int number = file.Number;
        Assert.IsTrue(Path.Exists($"/proc/self/fd/{number}"));
        file.Dispose();
        Assert.IsTrue(file.IsClosed);
        file.Dispose();
        Assert.ThrowsExactly<ObjectDisposedException>(() => file.Number);
    }

    [TestMethod]
    public void Refused_open_names_the_file()
    {
        LinuxException e = Assert.ThrowsExactly<LinuxException>(
            () => FileDescriptor.Open(LinuxKernel.Instance, "/no/such/file", Fcntl.O_RDONLY));
        Assert.AreEqual("open: ENOENT (2): /no/such/file", e.Message);
    }

    [TestMethod]
    public void Kernel_returns_negated_errors_and_never_throws()
    {
        LinuxKernel kernel = LinuxKernel.Instance;
        Span<byte> buffer = stackalloc byte[1];
        Assert.AreEqual(-(int)Errno.ENOENT, kernel.Open("/no/such/file", Fcntl.O_RDONLY));
        Assert.AreEqual(-(int)Errno.EBADF, kernel.Close(-1));
        Assert.AreEqual(-(nint)(int)Errno.EBADF, kernel.Pread(-1, buffer, 0));
        Assert.AreEqual(-(nint)(int)Errno.EBADF, kernel.Pwrite(-1, buffer, 0));
        Assert.AreEqual(-(nint)(int)Errno.EBADF, kernel.Mmap(4096, Mman.PROT_READ, Mman.MAP_SHARED, -1, 0));
        Assert.AreEqual(-(int)Errno.EINVAL, kernel.Munmap(1, 4096));
        unsafe
        {
            Assert.AreEqual(-(int)Errno.EBADF, kernel.Ioctl(-1, 0, null));
        }
    }
}
