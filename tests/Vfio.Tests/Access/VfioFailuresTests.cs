using Vfio.Linux;

namespace Vfio.Tests;

[TestClass]
public sealed class VfioFailuresTests
{
    // The kernel's answers as facts-vfio-vhost.md lists them, for the calls that this project makes; the texts name the
    // thing that the cause must speak of, and begin the cure.
    public static IEnumerable<object[]> Known =>
    [
        ["VFIO_IOMMU_MAP_DMA", Errno.EFAULT, "not mapped in this process", "map the whole range with the access that the device"],
        ["VFIO_IOMMU_MAP_DMA", Errno.EINVAL, "multiple of the IOMMU's page", "keep to the valid ranges and page sizes (vfiopin pool"],
        ["VFIO_IOMMU_MAP_DMA", Errno.EEXIST, "overlaps a live mapping", "unmap that first, or let the allocator choose the IOVA"],
        ["VFIO_IOMMU_MAP_DMA", Errno.ENOSPC, "dma_entry_limit", "map fewer, larger ranges, or raise it and open the"],
        ["VFIO_IOMMU_MAP_DMA", Errno.ENOMEM, "RLIMIT_MEMLOCK", "raise the limit (ulimit -l, LimitMEMLOCK= in a systemd"],
        ["VFIO_IOMMU_MAP_DMA", Errno.ENODEV, "no address space", "report this as a bug of vfiopin"],
        ["VFIO_IOMMU_MAP_DMA", Errno.EOPNOTSUPP, "cannot be pinned", "use anonymous memory, a memfd or huge pages"],
        ["VFIO_IOMMU_MAP_DMA", Errno.EPERM, "forbids pinning", "use anonymous memory, a memfd or huge pages"],
        ["VFIO_IOMMU_MAP_DMA", Errno.EOVERFLOW, "end of the address space", "choose a lower IOVA"],
        ["VFIO_IOMMU_MAP_DMA", Errno.EBUSY, "in use by the IOMMU", "choose another IOVA"],
        ["VFIO_IOMMU_UNMAP_DMA", Errno.EFAULT, "bitmap's address", "report this as a bug of vfiopin"],
        ["VFIO_IOMMU_UNMAP_DMA", Errno.EINVAL, "cuts a mapping in two", "free exactly what was mapped"],
        ["VFIO_IOMMU_UNMAP_DMA", Errno.EBUSY, "mediated device", "stop that device first"],
        ["VFIO_IOMMU_UNMAP_DMA", Errno.EOVERFLOW, "end of the address space", "free exactly what was mapped"],
        ["VFIO_IOMMU_UNMAP_DMA", Errno.ENOMEM, "dirty bits", "unmap without asking for them"],
        ["VFIO_IOMMU_DIRTY_PAGES", Errno.EACCES, "type1 version 2", "report this as a bug of vfiopin"],
        ["VFIO_IOMMU_DIRTY_PAGES", Errno.EINVAL, "tracking is not on", "start tracking first, and ask for whole mappings"],
        ["VFIO_IOMMU_DIRTY_PAGES", Errno.ENOMEM, "bitmaps", "free memory"],
        ["VFIO_IOMMU_DIRTY_PAGES", Errno.EFAULT, "bitmap's address", "report this as a bug of vfiopin"],
        ["VFIO_IOMMU_DIRTY_PAGES", Errno.ENOTTY, "cannot track", "use the pool's own record, which needs no kernel"],
        ["VFIO_SET_IOMMU", Errno.EPERM, "remap interrupts", "switch interrupt remapping on (firmware; intremap=on for"],
        ["VFIO_SET_IOMMU", Errno.EINVAL, "IOMMU already", "attach a group before the IOMMU is set, and set it once"],
        ["VFIO_SET_IOMMU", Errno.EBUSY, "another IOMMU domain", "end the process that uses the group"],
        ["VFIO_SET_IOMMU", Errno.EIO, "refused", "look at the kernel log: dmesg | grep -i -e DMAR -e"],
        ["VFIO_SET_IOMMU", Errno.ENODEV, "vfio_iommu_type1", "modprobe vfio_iommu_type1"],
        ["VFIO_SET_IOMMU", Errno.ENOMEM, "domain", "free memory"],
        ["VFIO_GROUP_SET_CONTAINER", Errno.EINVAL, "in a container already", "close the group first"],
        ["VFIO_GROUP_SET_CONTAINER", Errno.EBUSY, "another user", "end the process that uses the group"],
        ["VFIO_GROUP_SET_CONTAINER", Errno.EPERM, "CAP_SYS_RAWIO", "switch the IOMMU on: intel_iommu=on on the kernel"],
        ["VFIO_GROUP_GET_DEVICE_FD", Errno.EINVAL, "no container", "attach the group first"],
        ["VFIO_GROUP_GET_DEVICE_FD", Errno.ENODEV, "bound to vfio-pci", "vfiopin device bind ADDRESS"],
        ["open(/dev/vfio/GROUP)", Errno.EBUSY, "another process", "end that process (fuser /dev/vfio/GROUP names it)"],
        ["open(/dev/vfio/GROUP)", Errno.EACCES, "permission", "chown $USER /dev/vfio/GROUP, or run as root"],
        ["open(/dev/vfio/GROUP)", Errno.EPERM, "permission", "run as root, or allow the device in this container's cgroup"],
        ["open(/dev/vfio/GROUP)", Errno.ENOENT, "bound to vfio-pci", "vfiopin device bind ADDRESS"],
        ["open(/dev/vfio/vfio)", Errno.ENOENT, "not loaded", "modprobe vfio-pci"],
        ["open(/dev/vfio/vfio)", Errno.EACCES, "permission", "chmod 0666 /dev/vfio/vfio (it gives no access to a"],
        ["VFIO_CHECK_EXTENSION", Errno.EINVAL, "type1 version 2", "modprobe vfio_iommu_type1"],
        ["VFIO_GET_API_VERSION", Errno.ENOTTY, "not a VFIO container", "look at what the file is: ls -l /dev/vfio/vfio"],
        ["VFIO_IOMMU_GET_INFO", Errno.EINVAL, "no IOMMU yet", "attach a group first"],
        ["VFIO_DEVICE_SET_IRQS", Errno.EINVAL, "fewer vectors", "ask for fewer vectors, or poll"],
        ["VFIO_DEVICE_SET_IRQS", Errno.ENOSPC, "no interrupt vectors", "ask for fewer vectors, or poll"],
        ["VFIO_DEVICE_RESET", Errno.ENOTTY, "no reset", "reset its bus: unbind it and bind it again"],
        ["VFIO_DEVICE_GET_INFO", Errno.EINVAL, "too short for this kernel", "report this as a bug of vfiopin"],
        ["VFIO_DEVICE_GET_IRQ_INFO", Errno.EINVAL, "no such interrupt", "use another kind of interrupt, or poll"],
        ["VFIO_DEVICE_GET_REGION_INFO", Errno.EINVAL, "no such region", "lspci -v shows the regions"],
        ["VFIO_DEVICE_GET_REGION_INFO", Errno.ENODEV, "was removed", "look whether the device is there: lspci"],
        ["VFIO_DEVICE_RESET", Errno.EINVAL, "cannot be reset alone", "reset its bus: unbind it and bind it again"],
        ["VFIO_DEVICE_RESET", Errno.EAGAIN, "busy with the device", "try again"],
        ["VFIO_GROUP_GET_DEVICE_FD", Errno.EMFILE, "no descriptors left", "raise the limit: ulimit -n"],
        ["open(/dev/vfio/GROUP)", Errno.EMFILE, "no descriptors left", "raise the limit: ulimit -n"],
        ["open(/dev/vfio/vfio)", Errno.EMFILE, "no descriptors left", "raise the limit: ulimit -n"],
        ["VFIO_DEVICE_RESET", Errno.EIO, "did not come back", "look at the kernel log: dmesg | grep vfio"],
        ["VFIO_DEVICE_RESET", Errno.ETIMEDOUT, "in time", "look at the kernel log: dmesg | grep vfio"],
        ["VFIO_DEVICE_SET_IRQS", Errno.EBADF, "eventfd was closed", "report this as a bug of vfiopin"],
        ["VFIO_DEVICE_SET_IRQS", Errno.EBUSY, "shared and cannot be masked", "use MSI-X, or poll"],
        ["VFIO_DEVICE_SET_IRQS", Errno.ENOMEM, "no memory for the vectors", "free memory"],
        ["VFIO_DEVICE_SET_IRQS", Errno.ENOTTY, "kind of interrupt", "use another kind of interrupt, or poll"],
        ["VFIO_GROUP_GET_DEVICE_FD", Errno.EACCES, "VF token", "use the token that the physical function's owner set"],
        ["VFIO_GROUP_GET_DEVICE_FD", Errno.EBUSY, "another driver of the VFIO family", "end the process that uses the device"],
        ["VFIO_GROUP_GET_DEVICE_FD", Errno.EIO, "did not wake", "look at the kernel log: dmesg | grep vfio"],
        ["VFIO_GROUP_GET_DEVICE_FD", Errno.EPERM, "not viable", "bind every device of the group: vfiopin device bind ADDRESS"],
        ["VFIO_GROUP_GET_STATUS", Errno.EFAULT, "address is not valid", "report this as a bug of vfiopin"],
        ["VFIO_GROUP_GET_STATUS", Errno.ENODEV, "devices are gone", "look whether the device was removed: lspci"],
        ["VFIO_GROUP_SET_CONTAINER", Errno.EIO, "refused the group's devices", "look at the kernel log: dmesg | grep -i -e DMAR -e"],
        ["VFIO_GROUP_SET_CONTAINER", Errno.ENODEV, "devices are gone", "look whether the device was removed: lspci"],
        ["VFIO_GROUP_UNSET_CONTAINER", Errno.EBUSY, "still open", "dispose the devices first"],
        ["VFIO_GROUP_UNSET_CONTAINER", Errno.EINVAL, "in no container", "report this as a bug of vfiopin"],
        ["VFIO_IOMMU_GET_INFO", Errno.ENOMEM, "no memory for the capabilities", "free memory"],
        ["open(/dev/vfio/GROUP)", Errno.ENODEV, "last device left the group", "vfiopin device bind ADDRESS"],
        ["open(/dev/vfio/vfio)", Errno.ENODEV, "module is gone", "modprobe vfio-pci"],
        ["open(/dev/vfio/vfio)", Errno.EPERM, "no permission", "run as root, or allow the device in this container's cgroup"],
    ];

    [TestMethod]
    [DynamicData(nameof(Known))]
    public void Each_errno_of_each_call_has_its_cause_and_cure(string call, Errno errno, string cause, string cure)
    {
        LinuxException e = VfioFailures.Exception(call, errno, "iova 0x1000-0x1fff");
        Assert.AreEqual($"{call}: {errno} ({(int)errno}): iova 0x1000-0x1fff. Cause: {e.Cause}. Cure: {e.Cure}", e.Message);
        StringAssert.Contains(e.Cause, cause);
        StringAssert.StartsWith(e.Cure, cure);
    }

    [TestMethod]
    public void No_row_is_left_untested()
    {
        HashSet<(string, Errno)> tested = [.. Known.Select(k => ((string)k[0], (Errno)k[1]))];
        foreach (SystemFailure failure in VfioFailures.All)
        {
            Assert.Contains((failure.Call, failure.Errno), tested);
        }
    }

    [TestMethod]
    public void Every_row_is_whole_and_stands_once()
    {
        Assert.HasCount(VfioFailures.All.Count, VfioFailures.All.DistinctBy(f => (f.Call, f.Errno)));
        foreach (SystemFailure failure in VfioFailures.All)
        {
            Assert.IsTrue(Enum.IsDefined(failure.Errno), failure.Call);
            Assert.AreSame(failure, VfioFailures.Find(failure.Call, failure.Errno));
            Assert.IsGreaterThan(10, failure.Cause.Length, failure.ToString());
            Assert.IsGreaterThan(5, failure.Cure.Length, failure.ToString());
            Assert.IsFalse(failure.Cause.EndsWith('.') || failure.Cure.EndsWith('.'), failure.ToString());
        }
    }

    [TestMethod]
    public void An_errno_that_is_not_known_keeps_its_number()
    {
        LinuxException e = VfioFailures.Exception("VFIO_IOMMU_MAP_DMA", (Errno)77, "iova 0x0-0xfff");
        Assert.AreEqual("VFIO_IOMMU_MAP_DMA: 77 (77): iova 0x0-0xfff", e.Message);
        Assert.IsNull(e.Cause);
    }
}
