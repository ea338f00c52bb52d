using Vfio.Linux;

namespace Vfio.GuestTests;

/// <summary>What a machine without an IOMMU answers. <c>tools/test</c> boots one for this category.</summary>
[TestClass]
[TestCategory("NoIommu")]
public sealed class NoIommuTests
{
    [TestMethod]
    public void Device_behind_no_iommu_is_said()
    {
        using VfioContainer container = VfioContainer.Open();
        LinuxException e = Assert.ThrowsExactly<LinuxException>(() => container.OpenDevice(EduDevice.Address));
        Assert.AreEqual(Errno.ENODEV, e.Errno);
        StringAssert.Contains(e.Message, "no IOMMU is on in this machine");
        StringAssert.Contains(e.Message, "intel_iommu=on");
        Assert.IsEmpty(container.Groups);
    }
}
