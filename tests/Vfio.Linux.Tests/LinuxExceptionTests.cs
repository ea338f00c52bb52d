namespace Vfio.Linux.Tests;

[TestClass]
public sealed class LinuxExceptionTests
{
    [TestMethod]
    [DataRow("", null, null, "mmap: ENOMEM (12)")]
    [DataRow("4096 bytes", null, null, "mmap: ENOMEM (12): 4096 bytes")]
    [DataRow("4096 bytes", "no memory", null, "mmap: ENOMEM (12): 4096 bytes. Cause: no memory")]
    [DataRow("4096 bytes", "no memory", "buy some", "mmap: ENOMEM (12): 4096 bytes. Cause: no memory. Cure: buy some")]
    [DataRow("", null, "buy some", "mmap: ENOMEM (12). Cure: buy some")]
    public void Message_is_whole_in_itself(string detail, string? cause, string? cure, string expected)
    {
        var e = new LinuxException("mmap", Errno.ENOMEM, detail, cause, cure);
        Assert.AreEqual(expected, e.Message);
        Assert.AreEqual(("mmap", Errno.ENOMEM, detail, cause, cure), (e.Call, e.Errno, e.Detail, e.Cause, e.Cure));
    }

    [TestMethod]
    public void What_a_system_call_says_by_itself_is_said_where_nobody_knows_more()
    {
        foreach (SystemFailure failure in SystemFailure.All)
        {
            var e = new LinuxException(failure.Call, failure.Errno, "/run/a");
            Assert.AreEqual($"{failure.Call}: {failure.Errno} ({(int)failure.Errno}): /run/a. Cause: {failure.Cause}. Cure: {failure.Cure}", e.Message);
            Assert.AreEqual((failure.Cause, failure.Cure), (e.Cause, e.Cure));
            Assert.AreEqual("why", new LinuxException(failure.Call, failure.Errno, "/run/a", "why").Cause);
            Assert.IsNull(new LinuxException(failure.Call, failure.Errno, "/run/a", "why").Cure);
        }

        Assert.AreEqual("the process has no descriptors left", new LinuxException("accept4", Errno.EMFILE, string.Empty).Cause);
        Assert.IsNull(new LinuxException("accept4", Errno.EADDRINUSE, string.Empty).Cause);
    }

    [TestMethod]
    public void Number_without_a_name_is_shown_as_the_number() =>
        Assert.AreEqual("ioctl: 134 (134)", new LinuxException("ioctl", (Errno)134, string.Empty).Message);
}
