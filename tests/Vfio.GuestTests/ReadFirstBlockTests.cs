namespace Vfio.GuestTests;

[TestClass]
public sealed class ReadFirstBlockTests
{
    [TestMethod]
    public void The_programme_of_the_readme_prints_what_the_kernel_reads()
    {
        byte[] expected = new byte[64];
        using (FileStream disk = BlockDisk.OpenByKernel())
        {
            disk.ReadExactly(expected);
        }

        GuestPci.BindToVfio(BlockDisk.Address);
        using var output = new StringWriter();
        ReadFirstBlock.Run(output);
        Assert.AreEqual(Convert.ToHexString(expected), output.ToString().Trim());
    }
}
