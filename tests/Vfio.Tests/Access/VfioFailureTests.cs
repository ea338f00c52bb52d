using Vfio.Linux;

namespace Vfio.Tests;

[TestClass]
public sealed class VfioFailureTests
{
    // The kernel's answers as facts-vfio-vhost.md lists them, for the calls that this project makes; the text names the thing
    // that the cause must speak of.
    public static IEnumerable<object[]> Known =>
    [
        ["VFIO_IOMMU_MAP_DMA", Errno.EFAULT, "not mapped in this process"],
        ["VFIO_IOMMU_MAP_DMA", Errno.EINVAL, "multiple of the IOMMU's page"],
        ["VFIO_IOMMU_MAP_DMA", Errno.EEXIST, "overlaps a live mapping"],
        ["VFIO_IOMMU_MAP_DMA", Errno.ENOSPC, "dma_entry_limit"],
        ["VFIO_IOMMU_MAP_DMA", Errno.ENOMEM, "RLIMIT_MEMLOCK"],
        ["VFIO_IOMMU_MAP_DMA", Errno.ENODEV, "no address space"],
        ["VFIO_IOMMU_MAP_DMA", Errno.EOPNOTSUPP, "cannot be pinned"],
        ["VFIO_IOMMU_MAP_DMA", Errno.EPERM, "forbids pinning"],
        ["VFIO_IOMMU_MAP_DMA", Errno.EOVERFLOW, "end of the address space"],
        ["VFIO_IOMMU_MAP_DMA", Errno.EBUSY, "in use by the IOMMU"],
        ["VFIO_IOMMU_UNMAP_DMA", Errno.EFAULT, "bitmap's address"],
        ["VFIO_IOMMU_UNMAP_DMA", Errno.EINVAL, "cuts a mapping in two"],
        ["VFIO_IOMMU_UNMAP_DMA", Errno.EBUSY, "mediated device"],
        ["VFIO_IOMMU_UNMAP_DMA", Errno.EOVERFLOW, "end of the address space"],
        ["VFIO_IOMMU_UNMAP_DMA", Errno.ENOMEM, "dirty bits"],
        ["VFIO_IOMMU_DIRTY_PAGES", Errno.EACCES, "type1 version 2"],
        ["VFIO_IOMMU_DIRTY_PAGES", Errno.EINVAL, "tracking is not on"],
        ["VFIO_IOMMU_DIRTY_PAGES", Errno.ENOMEM, "bitmaps"],
        ["VFIO_IOMMU_DIRTY_PAGES", Errno.EFAULT, "bitmap's address"],
        ["VFIO_IOMMU_DIRTY_PAGES", Errno.ENOTTY, "cannot track"],
        ["VFIO_SET_IOMMU", Errno.EPERM, "remap interrupts"],
        ["VFIO_SET_IOMMU", Errno.EINVAL, "IOMMU already"],
        ["VFIO_SET_IOMMU", Errno.EBUSY, "another IOMMU domain"],
        ["VFIO_SET_IOMMU", Errno.EIO, "refused"],
        ["VFIO_SET_IOMMU", Errno.ENODEV, "vfio_iommu_type1"],
        ["VFIO_SET_IOMMU", Errno.ENOMEM, "domain"],
        ["VFIO_GROUP_SET_CONTAINER", Errno.EINVAL, "in a container already"],
        ["VFIO_GROUP_SET_CONTAINER", Errno.EBUSY, "another user"],
        ["VFIO_GROUP_SET_CONTAINER", Errno.EPERM, "CAP_SYS_RAWIO"],
        ["VFIO_GROUP_GET_DEVICE_FD", Errno.EINVAL, "no container"],
        ["VFIO_GROUP_GET_DEVICE_FD", Errno.ENODEV, "bound to vfio-pci"],
        ["open(/dev/vfio/GROUP)", Errno.EBUSY, "another process"],
        ["open(/dev/vfio/GROUP)", Errno.EACCES, "permission"],
        ["open(/dev/vfio/GROUP)", Errno.EPERM, "permission"],
        ["open(/dev/vfio/GROUP)", Errno.ENOENT, "bound to vfio-pci"],
        ["open(/dev/vfio/vfio)", Errno.ENOENT, "not loaded"],
        ["open(/dev/vfio/vfio)", Errno.EACCES, "permission"],
        ["VFIO_CHECK_EXTENSION", Errno.EINVAL, "type1 version 2"],
        ["VFIO_GET_API_VERSION", Errno.ENOTTY, "not a VFIO container"],
        ["VFIO_IOMMU_GET_INFO", Errno.EINVAL, "no IOMMU yet"],
        ["VFIO_DEVICE_SET_IRQS", Errno.EINVAL, "fewer vectors"],
        ["VFIO_DEVICE_SET_IRQS", Errno.ENOSPC, "no interrupt vectors"],
        ["VFIO_DEVICE_RESET", Errno.ENOTTY, "no reset"],
        ["VFIO_DEVICE_GET_INFO", Errno.EINVAL, "too short for this kernel"],
        ["VFIO_DEVICE_GET_IRQ_INFO", Errno.EINVAL, "no such interrupt"],
        ["VFIO_DEVICE_GET_REGION_INFO", Errno.EINVAL, "no such region"],
        ["VFIO_DEVICE_GET_REGION_INFO", Errno.ENODEV, "was removed"],
        ["VFIO_DEVICE_RESET", Errno.EINVAL, "cannot be reset alone"],
        ["VFIO_DEVICE_RESET", Errno.EIO, "did not come back"],
        ["VFIO_DEVICE_RESET", Errno.ETIMEDOUT, "in time"],
        ["VFIO_DEVICE_SET_IRQS", Errno.EBADF, "eventfd was closed"],
        ["VFIO_DEVICE_SET_IRQS", Errno.EBUSY, "shared and cannot be masked"],
        ["VFIO_DEVICE_SET_IRQS", Errno.ENOMEM, "no memory for the vectors"],
        ["VFIO_DEVICE_SET_IRQS", Errno.ENOTTY, "kind of interrupt"],
        ["VFIO_GROUP_GET_DEVICE_FD", Errno.EACCES, "VF token"],
        ["VFIO_GROUP_GET_DEVICE_FD", Errno.EBUSY, "another driver of the VFIO family"],
        ["VFIO_GROUP_GET_DEVICE_FD", Errno.EIO, "did not wake"],
        ["VFIO_GROUP_GET_DEVICE_FD", Errno.EPERM, "not viable"],
        ["VFIO_GROUP_GET_STATUS", Errno.EFAULT, "address is not valid"],
        ["VFIO_GROUP_GET_STATUS", Errno.ENODEV, "devices are gone"],
        ["VFIO_GROUP_SET_CONTAINER", Errno.EIO, "refused the group's devices"],
        ["VFIO_GROUP_SET_CONTAINER", Errno.ENODEV, "devices are gone"],
        ["VFIO_GROUP_UNSET_CONTAINER", Errno.EBUSY, "still open"],
        ["VFIO_GROUP_UNSET_CONTAINER", Errno.EINVAL, "in no container"],
        ["VFIO_IOMMU_GET_INFO", Errno.ENOMEM, "no memory for the capabilities"],
        ["open(/dev/vfio/GROUP)", Errno.ENODEV, "last device left the group"],
        ["open(/dev/vfio/vfio)", Errno.ENODEV, "module is gone"],
        ["open(/dev/vfio/vfio)", Errno.EPERM, "no permission"],
    ];

    [TestMethod]
    [DynamicData(nameof(Known))]
    public void Each_errno_of_each_call_has_its_cause_and_cure(string call, Errno errno, string cause)
    {
        LinuxException e = VfioFailure.Exception(call, errno, "iova 0x1000-0x1fff");
        Assert.AreEqual($"{call}: {errno} ({(int)errno}): iova 0x1000-0x1fff. Cause: {e.Cause}. Cure: {e.Cure}", e.Message);
        StringAssert.Contains(e.Cause, cause);
        Assert.IsFalse(string.IsNullOrWhiteSpace(e.Cure));
    }

    [TestMethod]
    public void No_row_is_left_untested()
    {
        HashSet<(string, Errno)> tested = [.. Known.Select(k => ((string)k[0], (Errno)k[1]))];
        foreach (VfioFailure failure in VfioFailure.All)
        {
            Assert.Contains((failure.Call, failure.Errno), tested);
        }
    }

    [TestMethod]
    public void Every_row_is_whole_and_stands_once()
    {
        Assert.HasCount(VfioFailure.All.Count, VfioFailure.All.DistinctBy(f => (f.Call, f.Errno)));
        foreach (VfioFailure failure in VfioFailure.All)
        {
            Assert.IsTrue(Enum.IsDefined(failure.Errno), failure.Call);
            Assert.AreSame(failure, VfioFailure.Find(failure.Call, failure.Errno));
            Assert.IsGreaterThan(10, failure.Cause.Length, failure.ToString());
            Assert.IsGreaterThan(5, failure.Cure.Length, failure.ToString());
            Assert.IsFalse(failure.Cause.EndsWith('.') || failure.Cure.EndsWith('.'), failure.ToString());
        }
    }

    [TestMethod]
    public void An_errno_that_is_not_known_keeps_its_number()
    {
        LinuxException e = VfioFailure.Exception("VFIO_IOMMU_MAP_DMA", (Errno)77, "iova 0x0-0xfff");
        Assert.AreEqual("VFIO_IOMMU_MAP_DMA: 77 (77): iova 0x0-0xfff", e.Message);
        Assert.IsNull(e.Cause);
    }
}
