using Vfio.Linux;

namespace Vfio;

/// <summary>What the error numbers of VFIO's calls mean, and what to do about them. What any call may fail with, <see cref="SystemFailure"/>
/// knows.</summary>
public static class VfioFailures
{
    /// <summary>Every error of every VFIO call that this project makes, but for those that any call may fail with. Read from the kernel (<c>vfio_iommu_type1.c</c>,
    /// <c>group.c</c>, <c>container.c</c>, <c>vfio_pci_core.c</c>), confirmed by the conformance tests where it can be provoked.</summary>
    public static IReadOnlyList<SystemFailure> All { get; } =
    [
        new("open(/dev/vfio/vfio)", Errno.ENOENT, "the vfio module is not loaded", "modprobe vfio-pci"),
        new("open(/dev/vfio/vfio)", Errno.ENODEV, "the vfio module is gone", "modprobe vfio-pci"),
        new("open(/dev/vfio/vfio)", Errno.EACCES, "no permission for the container device",
            "chmod 0666 /dev/vfio/vfio (it gives no access to a device by itself), or run as root"),
        new("open(/dev/vfio/vfio)", Errno.EPERM, "no permission for the container device", "run as root, or allow the device in this container's cgroup"),
        new("open(/dev/vfio/GROUP)", Errno.ENOENT, "no device of the group is bound to vfio-pci", "vfiopin device bind ADDRESS"),
        new("open(/dev/vfio/GROUP)", Errno.EBUSY, "another process holds the group",
            "end that process (fuser /dev/vfio/GROUP names it)"),
        new("open(/dev/vfio/GROUP)", Errno.EACCES, "no permission for the group", "chown $USER /dev/vfio/GROUP, or run as root"),
        new("open(/dev/vfio/GROUP)", Errno.EPERM, "no permission for the group", "run as root, or allow the device in this container's cgroup"),
        new("open(/dev/vfio/GROUP)", Errno.ENODEV, "the last device left the group while it was opened", "vfiopin device bind ADDRESS"),
        new("VFIO_GET_API_VERSION", Errno.ENOTTY, "/dev/vfio/vfio is not a VFIO container", "look at what the file is: ls -l /dev/vfio/vfio"),
        new("VFIO_CHECK_EXTENSION", Errno.EINVAL, "the kernel offers no type1 version 2 IOMMU", "modprobe vfio_iommu_type1"),
        new("VFIO_SET_IOMMU", Errno.ENODEV, "no IOMMU driver serves the group, or vfio_iommu_type1 is not loaded", "modprobe vfio_iommu_type1"),
        new("VFIO_SET_IOMMU", Errno.EPERM, "the IOMMU does not remap interrupts, so a device could forge them",
            "switch interrupt remapping on (firmware; intremap=on for QEMU), or accept the risk: echo Y > /sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts"),
        new("VFIO_SET_IOMMU", Errno.EINVAL, "the container has an IOMMU already, or holds no group", "attach a group before the IOMMU is set, and set it once"),
        new("VFIO_SET_IOMMU", Errno.EBUSY, "the group's devices belong to another IOMMU domain", "end the process that uses the group"),
        new("VFIO_SET_IOMMU", Errno.ENOMEM, "no memory for the IOMMU domain", "free memory"),
        new("VFIO_SET_IOMMU", Errno.EIO, "the IOMMU refused the group's devices", "look at the kernel log: dmesg | grep -i -e DMAR -e AMD-Vi -e iommu"),
        new("VFIO_GROUP_GET_STATUS", Errno.EFAULT, "the structure's address is not valid", "report this as a bug of vfiopin"),
        new("VFIO_GROUP_GET_STATUS", Errno.ENODEV, "the group's devices are gone", "look whether the device was removed: lspci"),
        new("VFIO_GROUP_SET_CONTAINER", Errno.EINVAL, "the group is in a container already, or the descriptor is no container", "close the group first"),
        new("VFIO_GROUP_SET_CONTAINER", Errno.EBUSY, "another user has the group", "end the process that uses the group"),
        new("VFIO_GROUP_SET_CONTAINER", Errno.EPERM, "a group without IOMMU protection needs CAP_SYS_RAWIO", "switch the IOMMU on: intel_iommu=on on the kernel command line"),
        new("VFIO_GROUP_SET_CONTAINER", Errno.ENODEV, "the group's devices are gone", "look whether the device was removed: lspci"),
        new("VFIO_GROUP_SET_CONTAINER", Errno.EIO, "the IOMMU refused the group's devices", "look at the kernel log: dmesg | grep -i -e DMAR -e AMD-Vi -e iommu"),
        new("VFIO_GROUP_UNSET_CONTAINER", Errno.EINVAL, "the group is in no container", "report this as a bug of vfiopin"),
        new("VFIO_GROUP_UNSET_CONTAINER", Errno.EBUSY, "a device of the group is still open", "dispose the devices first"),
        new("VFIO_GROUP_GET_DEVICE_FD", Errno.EINVAL, "the group is in no container with an IOMMU", "attach the group first"),
        new("VFIO_GROUP_GET_DEVICE_FD", Errno.ENODEV, "no device of that name in the group is bound to vfio-pci", "vfiopin device bind ADDRESS"),
        new("VFIO_GROUP_GET_DEVICE_FD", Errno.EBUSY, "the device is in use by another driver of the VFIO family", "end the process that uses the device"),
        new("VFIO_GROUP_GET_DEVICE_FD", Errno.EPERM, "the group is not viable: another device of it is bound to a driver of the host",
            "bind every device of the group: vfiopin device bind ADDRESS"),
        new("VFIO_GROUP_GET_DEVICE_FD", Errno.EACCES, "the device needs a VF token", "use the token that the physical function's owner set"),
        new("VFIO_GROUP_GET_DEVICE_FD", Errno.EIO, "the device did not wake or did not reset", "look at the kernel log: dmesg | grep vfio"),
        new("VFIO_DEVICE_GET_INFO", Errno.EINVAL, "the structure is too short for this kernel", "report this as a bug of vfiopin"),
        new("VFIO_DEVICE_GET_REGION_INFO", Errno.EINVAL, "the device has no such region", "lspci -v shows the regions"),
        new("VFIO_DEVICE_GET_REGION_INFO", Errno.ENODEV, "the device was removed", "look whether the device is there: lspci"),
        new("VFIO_DEVICE_GET_IRQ_INFO", Errno.EINVAL, "the device has no such interrupt", "use another kind of interrupt, or poll"),
        new("VFIO_DEVICE_SET_IRQS", Errno.EINVAL, "the device has fewer vectors, or another kind of interrupt is on", "ask for fewer vectors, or poll"),
        new("VFIO_DEVICE_SET_IRQS", Errno.ENOSPC, "the machine has no interrupt vectors left", "ask for fewer vectors, or poll"),
        new("VFIO_DEVICE_SET_IRQS", Errno.ENOMEM, "no memory for the vectors", "free memory"),
        new("VFIO_DEVICE_SET_IRQS", Errno.EBUSY, "the legacy interrupt line is shared and cannot be masked", "use MSI-X, or poll"),
        new("VFIO_DEVICE_SET_IRQS", Errno.EBADF, "an eventfd was closed before it was handed over", "report this as a bug of vfiopin"),
        new("VFIO_DEVICE_SET_IRQS", Errno.ENOTTY, "the device cannot do that with this kind of interrupt", "use another kind of interrupt, or poll"),
        new("VFIO_DEVICE_RESET", Errno.EINVAL, "the device cannot be reset alone", "reset its bus: unbind it and bind it again"),
        new("VFIO_DEVICE_RESET", Errno.ENOTTY, "the device has no reset", "reset its bus: unbind it and bind it again"),
        new("VFIO_DEVICE_RESET", Errno.EAGAIN, "the kernel is busy with the device (pci_try_reset_function)", "try again"),
        new("VFIO_DEVICE_RESET", Errno.EIO, "the device did not come back from its reset", "look at the kernel log: dmesg | grep vfio"),
        new("VFIO_DEVICE_RESET", Errno.ETIMEDOUT, "the device did not come back from its reset in time", "look at the kernel log: dmesg | grep vfio"),
        new("VFIO_IOMMU_GET_INFO", Errno.EINVAL, "the container has no IOMMU yet", "attach a group first"),
        new("VFIO_IOMMU_GET_INFO", Errno.ENOMEM, "no memory for the capabilities", "free memory"),
        new("VFIO_IOMMU_MAP_DMA", Errno.EFAULT, "a page of the range is not mapped in this process, is read-only but the device is to write it, or cannot be pinned",
            "map the whole range with the access that the device gets, and populate it first"),
        new("VFIO_IOMMU_MAP_DMA", Errno.EINVAL, "address or size is no multiple of the IOMMU's page, or the range is outside what the IOMMU can address",
            "keep to the valid ranges and page sizes (vfiopin pool plan prints them)"),
        new("VFIO_IOMMU_MAP_DMA", Errno.EEXIST, "the range overlaps a live mapping", "unmap that first, or let the allocator choose the IOVA"),
        new("VFIO_IOMMU_MAP_DMA", Errno.ENOSPC, "the container's mapping entries are used up (vfio_iommu_type1 dma_entry_limit)",
            "map fewer, larger ranges, or raise it and open the container anew: echo N > /sys/module/vfio_iommu_type1/parameters/dma_entry_limit"),
        new("VFIO_IOMMU_MAP_DMA", Errno.ENOMEM, "RLIMIT_MEMLOCK would be exceeded, or the kernel is out of memory for page tables",
            "raise the limit (ulimit -l, LimitMEMLOCK= in a systemd unit, or prlimit --memlock), or grant CAP_IPC_LOCK"),
        new("VFIO_IOMMU_MAP_DMA", Errno.EOVERFLOW, "the range passes the end of the address space", "choose a lower IOVA"),
        new("VFIO_IOMMU_MAP_DMA", Errno.EOPNOTSUPP, "memory of this kind cannot be pinned for long (file-backed on a file system that writes back)",
            "use anonymous memory, a memfd or huge pages"),
        new("VFIO_IOMMU_MAP_DMA", Errno.EPERM, "the kernel forbids pinning this memory", "use anonymous memory, a memfd or huge pages"),
        new("VFIO_IOMMU_MAP_DMA", Errno.ENODEV, "the process has no address space any more", "report this as a bug of vfiopin"),
        new("VFIO_IOMMU_MAP_DMA", Errno.EBUSY, "the address is in use by the IOMMU itself", "choose another IOVA"),
        new("VFIO_IOMMU_UNMAP_DMA", Errno.EINVAL, "the range cuts a mapping in two, or is no multiple of the IOMMU's page", "free exactly what was mapped"),
        new("VFIO_IOMMU_UNMAP_DMA", Errno.EFAULT, "the bitmap's address is not valid", "report this as a bug of vfiopin"),
        new("VFIO_IOMMU_UNMAP_DMA", Errno.EBUSY, "a mediated device uses the mapping", "stop that device first"),
        new("VFIO_IOMMU_UNMAP_DMA", Errno.EOVERFLOW, "the range passes the end of the address space", "free exactly what was mapped"),
        new("VFIO_IOMMU_UNMAP_DMA", Errno.ENOMEM, "no memory to collect the dirty bits", "unmap without asking for them"),
        new("VFIO_IOMMU_DIRTY_PAGES", Errno.EACCES, "the container is not type1 version 2", "report this as a bug of vfiopin"),
        new("VFIO_IOMMU_DIRTY_PAGES", Errno.EINVAL, "tracking is not on, or the range cuts a mapping in two or is larger than one answer may be",
            "start tracking first, and ask for whole mappings"),
        new("VFIO_IOMMU_DIRTY_PAGES", Errno.ENOMEM, "no memory for the bitmaps (one bit a page)", "free memory"),
        new("VFIO_IOMMU_DIRTY_PAGES", Errno.EFAULT, "the bitmap's address is not valid", "report this as a bug of vfiopin"),
        new("VFIO_IOMMU_DIRTY_PAGES", Errno.ENOTTY, "this container cannot track (kernel before 5.8, or the iommufd compatibility container)",
            "use the pool's own record, which needs no kernel"),
    ];

    // Below All, which it is made from: static initialisers run in the order of the text.
    private static readonly Dictionary<(string Call, Errno Errno), SystemFailure> Table = All.ToDictionary(f => (f.Call, f.Errno));

    /// <summary>What is known of an error.</summary>
    /// <param name="call">The call in the kernel's spelling.</param>
    /// <param name="errno">The error number.</param>
    /// <returns>The explanation, or null where there is none.</returns>
    public static SystemFailure? Find(string call, Errno errno) => Table.GetValueOrDefault((call, errno)) ?? SystemFailure.Find(call, errno);

    /// <summary>The exception for a call that failed, with cause and cure from the table.</summary>
    /// <param name="call">The call in the kernel's spelling.</param>
    /// <param name="errno">The error number.</param>
    /// <param name="detail">The range, device or path concerned.</param>
    /// <returns>The exception, to throw.</returns>
    internal static LinuxException Exception(string call, Errno errno, string detail)
    {
        SystemFailure? known = Find(call, errno);
        return new LinuxException(call, errno, detail, known?.Cause, known?.Cure);
    }
}
