using Vfio.Linux;
using Vfio.Service;

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

    // No-IOMMU mode itself cannot be tried here: Debian's kernel is built without it (CONFIG_VFIO_NOIOMMU), and so has no parameter of it.
    [TestMethod]
    public void The_doctor_says_that_there_is_none_and_that_the_device_cannot_be_used()
    {
        DoctorReport report = new Doctor().Examine(EduDevice.Address);
        string all = string.Join('\n', report.Findings);
        Finding iommu = report.Findings.Single(f => f.Subject == "IOMMU");
        Assert.AreEqual(FindingStatus.Failure, iommu.Status, all);
        StringAssert.Contains(iommu.Text, "none: the firmware describes no IOMMU", all);
        StringAssert.Contains(iommu.Cure, "-device intel-iommu,intremap=on", all);
        Finding device = report.Findings.Single(f => f.Text.StartsWith("it is in no IOMMU group", StringComparison.Ordinal));
        Assert.AreEqual((FindingStatus.Failure, "switch the IOMMU on, as above"), (device.Status, device.Cure));
        Assert.IsFalse(report.Findings.Any(f => f.Subject == "no-IOMMU mode"), all);
    }
}
