namespace Vfio.Linux.Tests;

[TestClass]
public sealed class SysfsTests : IDisposable
{
    private readonly string _root = Directory.CreateTempSubdirectory("vfiopin-sysfs-").FullName;

    private Sysfs Sys => new(_root);

    public void Dispose() => Directory.Delete(_root, recursive: true);

    [TestMethod]
    public void Attributes_are_read_without_the_space_around_them()
    {
        File.WriteAllText(Path.Combine(_root, "vendor"), " 0x1af4\n");
        Assert.AreEqual("0x1af4", Sys.TryRead("/vendor"));
        Assert.IsNull(Sys.TryRead("/nothing"));
        Assert.IsNull(Sys.TryRead("/"));
        Assert.IsTrue(Sys.Exists("/vendor"));
        Assert.IsFalse(Sys.Exists("/nothing"));
    }

    [TestMethod]
    public void Links_give_the_last_name_of_what_they_point_at()
    {
        File.CreateSymbolicLink(Path.Combine(_root, "driver"), "../../bus/pci/drivers/vfio-pci");
        Assert.AreEqual("vfio-pci", Sys.TryReadLinkName("/driver"));
        File.WriteAllText(Path.Combine(_root, "plain"), string.Empty);
        Assert.IsNull(Sys.TryReadLinkName("/plain"));
        Assert.IsNull(Sys.TryReadLinkName("/nothing"));
    }

    [TestMethod]
    public void Directories_are_listed_in_order()
    {
        foreach (string name in (string[])["b", "a", "C"])
        {
            Directory.CreateDirectory(Path.Combine(_root, "devices", name));
        }

        CollectionAssert.AreEqual((string[])["C", "a", "b"], Sys.List("/devices").ToArray());
        Assert.IsEmpty(Sys.List("/nothing"));
    }

    [TestMethod]
    public void Writing_needs_the_file_and_says_which()
    {
        string file = Path.Combine(_root, "driver_override");
        File.WriteAllText(file, string.Empty);
        Sys.Write("/driver_override", "vfio-pci");
        Assert.AreEqual("vfio-pci", File.ReadAllText(file));
        File.WriteAllText(file, string.Empty);
        Sys.Write("/driver_override", string.Empty);
        Assert.AreEqual("\n", File.ReadAllText(file));
        LinuxException e = Assert.ThrowsExactly<LinuxException>(() => Sys.Write("/nothing", "1"));
        Assert.AreEqual(Errno.ENOENT, e.Errno);
        StringAssert.Contains(e.Message, Path.Combine(_root, "nothing"));
    }
}
