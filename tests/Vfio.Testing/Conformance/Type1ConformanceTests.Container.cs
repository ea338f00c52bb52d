using System.Runtime.InteropServices;
using Vfio.Linux;

namespace Vfio.Testing;

/// <content>Containers and groups.</content>
public abstract unsafe partial class Type1ConformanceTests
{
    [TestMethod]
    public void Container_alone_knows_its_version_and_types_and_nothing_else()
    {
        using var raw = new RawVfio(Kernel, Group);
        Assert.AreEqual(0, raw.Ioctl(vfio.VFIO_GET_API_VERSION, null));
        Assert.AreEqual(1, raw.CheckExtension(vfio.VFIO_TYPE1_IOMMU));
        Assert.AreEqual(1, raw.CheckExtension(vfio.VFIO_TYPE1v2_IOMMU));
        Assert.AreEqual(1, raw.CheckExtension(vfio.VFIO_UNMAP_ALL));
        Assert.AreEqual(0, raw.CheckExtension(vfio.VFIO_UPDATE_VADDR));
        Assert.AreEqual(0, raw.CheckExtension(vfio.VFIO_DMA_CC_IOMMU));
        Assert.AreEqual(0, raw.CheckExtension(2));
        Assert.AreEqual(0, raw.CheckExtension(12345));
        AssertErrno(Errno.EINVAL, raw.SetIommu(vfio.VFIO_TYPE1v2_IOMMU), "SET_IOMMU with no group");
        using MappedMemory memory = Memory(1);
        AssertErrno(Errno.EINVAL, raw.Map(Base, memory), "MAP_DMA with no IOMMU");
        AssertErrno(Errno.EINVAL, raw.Unmap(Base, Page), "UNMAP_DMA with no IOMMU");
        AssertErrno(Errno.EINVAL, raw.Dirty(vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_START), "DIRTY_PAGES with no IOMMU");
        Assert.AreEqual(-(int)Errno.EINVAL, raw.Ioctl(0x3bff, null));
    }

    [TestMethod]
    public void Group_is_opened_once()
    {
        using var raw = new RawVfio(Kernel, Group);
        Assert.AreEqual(-(int)Errno.EBUSY, Kernel.Open($"/dev/vfio/{Group}", Fcntl.O_RDWR));
        Assert.AreEqual(-(int)Errno.ENOENT, Kernel.Open("/dev/vfio/54321", Fcntl.O_RDWR));
        raw.Close(raw.GroupDescriptor);
        _ = raw.Open($"/dev/vfio/{Group}");
    }

    [TestMethod]
    public void Group_goes_into_one_container_and_out_again()
    {
        using var raw = new RawVfio(Kernel, Group);
        Assert.AreEqual(vfio.VFIO_GROUP_FLAGS_VIABLE, raw.Status());
        AssertErrno(Errno.EINVAL, raw.UnsetContainer(), "UNSET_CONTAINER of none");
        AssertErrno(Errno.EBADF, raw.SetContainer(-1), "SET_CONTAINER of no descriptor");
        AssertErrno((Errno)Behaviour.UnknownContainer, raw.SetContainer(raw.GroupDescriptor), "SET_CONTAINER of a group");
        using var eventFd = new EventFd();
        AssertErrno((Errno)Behaviour.UnknownContainer, raw.SetContainer(eventFd.Descriptor.Number), "SET_CONTAINER of an eventfd");
        Assert.AreEqual(-(int)Errno.EFAULT, raw.Ioctl(raw.GroupDescriptor, vfio.VFIO_GROUP_SET_CONTAINER, null));

        AssertErrno(Errno.None, raw.SetContainer(raw.Container), "SET_CONTAINER");
        AssertErrno(Errno.EINVAL, raw.SetContainer(raw.Container), "SET_CONTAINER twice");
        Assert.AreEqual(vfio.VFIO_GROUP_FLAGS_VIABLE | vfio.VFIO_GROUP_FLAGS_CONTAINER_SET, raw.Status());
        Assert.AreEqual(-(int)Errno.EINVAL, raw.OpenDevice(Device.ToString()), "no IOMMU is set");
        AssertErrno(Errno.ENODEV, raw.SetIommu(12345), "SET_IOMMU of a type that nobody has");
        AssertErrno(Errno.EINVAL, raw.SetIommu(vfio.VFIO_UNMAP_ALL), "SET_IOMMU of what is an extension but no type");
        AssertErrno(Errno.None, raw.SetIommu(vfio.VFIO_TYPE1v2_IOMMU), "SET_IOMMU");
        AssertErrno(Errno.EINVAL, raw.SetIommu(vfio.VFIO_TYPE1v2_IOMMU), "SET_IOMMU twice");
        Assert.AreEqual(1, raw.CheckExtension(vfio.VFIO_UPDATE_VADDR));
        Assert.AreEqual(-(int)Errno.ENODEV, raw.OpenDevice("0000:ff:1f.7"));
        Assert.AreEqual(-(int)Errno.ENOTTY, raw.Ioctl(0x3bff, null));
        Assert.AreEqual(-(int)Errno.ENOTTY, raw.Ioctl(raw.GroupDescriptor, vfio.VFIO_IOMMU_MAP_DMA, null));

        AssertErrno(Errno.None, raw.UnsetContainer(), "UNSET_CONTAINER");
        using MappedMemory memory = Memory(1);
        AssertErrno(Errno.EINVAL, raw.Map(Base, memory), "MAP_DMA after the last group left");
    }

    [TestMethod]
    public void Open_device_holds_its_group_in_the_container()
    {
        using RawVfio raw = Attached();
        int device = raw.OpenDevice(Device.ToString());
        Assert.IsGreaterThanOrEqualTo(0, device);
        AssertErrno(Errno.EBUSY, raw.UnsetContainer(), "UNSET_CONTAINER with a device open");
        raw.Close(raw.GroupDescriptor);
        Assert.AreEqual(-(int)Errno.EBUSY, Kernel.Open($"/dev/vfio/{Group}", Fcntl.O_RDWR));
        using MappedMemory memory = Memory(1);
        AssertErrno(Errno.None, raw.Map(Base, memory), "MAP_DMA while a device keeps the group");
        raw.Close(device);
        AssertErrno(Errno.EINVAL, raw.Unmap(Base, Page), "UNMAP_DMA after the group left with its last device");
    }

    [TestMethod]
    public void Mappings_go_with_the_last_group()
    {
        using RawVfio raw = Attached();
        using MappedMemory memory = Memory(1);
        AssertErrno(Errno.None, raw.Map(Base, memory), "MAP_DMA");
        AssertErrno(Errno.None, raw.UnsetContainer(), "UNSET_CONTAINER");
        AssertErrno(Errno.None, raw.SetContainer(raw.Container), "SET_CONTAINER again");
        AssertErrno(Errno.None, raw.SetIommu(vfio.VFIO_TYPE1v2_IOMMU), "SET_IOMMU again");
        AssertErrno(Errno.None, raw.Map(Base, memory), "MAP_DMA where a mapping was");
    }

    [TestMethod]
    public void Info_tells_its_size_first_and_then_everything()
    {
        using RawVfio raw = Attached();
        var info = new vfio_iommu_type1_info { argsz = 15 };
        Assert.AreEqual(-(int)Errno.EINVAL, raw.Ioctl(vfio.VFIO_IOMMU_GET_INFO, &info));
        info.argsz = 16;
        info.cap_offset = 77;
        Assert.AreEqual(0, raw.Ioctl(vfio.VFIO_IOMMU_GET_INFO, &info));
        Assert.AreEqual(77u, info.cap_offset, "there was no room for it");
        Assert.IsGreaterThan((uint)sizeof(vfio_iommu_type1_info), info.argsz);
        info.argsz = (uint)sizeof(vfio_iommu_type1_info);
        Assert.AreEqual(0, raw.Ioctl(vfio.VFIO_IOMMU_GET_INFO, &info));
        Assert.AreEqual(0u, info.cap_offset);
        Assert.AreEqual(vfio.VFIO_IOMMU_INFO_PGSIZES | vfio.VFIO_IOMMU_INFO_CAPS, info.flags);
        Assert.AreEqual(-(int)Errno.EFAULT, raw.Ioctl(vfio.VFIO_IOMMU_GET_INFO, null));

        RawType1Info all = raw.GetInfo();
        CollectionAssert.AreEquivalent(
            (int[])[vfio.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, vfio.VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION, vfio.VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL],
            all.Capabilities.ToArray());
        Assert.AreEqual(Page, all.PageSizes & (~all.PageSizes + 1));
        Assert.AreEqual(Page, all.DirtyPageSizes);
        Assert.AreEqual(1ul << 28, all.LargestBitmap);
        // x86: the window of message-signalled interrupts is never an IOVA.
        Assert.IsFalse(all.Ranges.Any(r => r.Overlaps(new IovaRange(new Iova(0xfee0_0000), new Iova(0xfeef_ffff)))));
        Assert.IsTrue(all.Ranges.Any(r => r.Contains(new Iova(Base))));
        CollectionAssert.AreEqual(all.Ranges.OrderBy(r => r.First).ToArray(), all.Ranges.ToArray());
    }

    [TestMethod]
    public void Device_describes_itself()
    {
        using RawVfio raw = Attached();
        int device = raw.OpenDevice(Device.ToString());
        var info = new vfio_device_info { argsz = 15 };
        Assert.AreEqual(-(int)Errno.EINVAL, raw.Ioctl(device, vfio.VFIO_DEVICE_GET_INFO, &info));
        info.argsz = (uint)sizeof(vfio_device_info);
        Assert.AreEqual(0, raw.Ioctl(device, vfio.VFIO_DEVICE_GET_INFO, &info));
        Assert.AreEqual(vfio.VFIO_DEVICE_FLAGS_PCI, info.flags & vfio.VFIO_DEVICE_FLAGS_PCI);
        Assert.AreEqual(9u, info.num_regions);
        Assert.AreEqual(5u, info.num_irqs);

        var region = new vfio_region_info { argsz = (uint)sizeof(vfio_region_info), index = vfio.VFIO_PCI_CONFIG_REGION_INDEX };
        Assert.AreEqual(0, raw.Ioctl(device, vfio.VFIO_DEVICE_GET_REGION_INFO, &region));
        Assert.AreEqual(7ul << 40, region.offset);
        Assert.AreEqual(vfio.VFIO_REGION_INFO_FLAG_READ | vfio.VFIO_REGION_INFO_FLAG_WRITE, region.flags);
        region.index = 9;
        Assert.AreEqual(-(int)Errno.EINVAL, raw.Ioctl(device, vfio.VFIO_DEVICE_GET_REGION_INFO, &region));
        region.index = 0;
        region.argsz--;
        Assert.AreEqual(-(int)Errno.EINVAL, raw.Ioctl(device, vfio.VFIO_DEVICE_GET_REGION_INFO, &region));

        Span<byte> vendor = stackalloc byte[2];
        Assert.AreEqual(2, Kernel.Pread(device, vendor, 7L << 40));
        Assert.AreNotEqual(0xffff, MemoryMarshal.Read<ushort>(vendor));
        Assert.AreEqual(-(int)Errno.EFAULT, Kernel.Pread(device, vendor, (7L << 40) + (long)Length(raw, device, 7)));
        Assert.AreEqual(-(int)Errno.EINVAL, Kernel.Pread(device, vendor, 9L << 40));
        Assert.AreEqual(-(int)Errno.ENOTTY, raw.Ioctl(device, 0x3bff, null));
    }

    [TestMethod]
    public void Interrupts_are_counted_and_set_as_a_whole()
    {
        using RawVfio raw = Attached();
        int device = raw.OpenDevice(Device.ToString());
        var irq = new vfio_irq_info { argsz = (uint)sizeof(vfio_irq_info), index = vfio.VFIO_PCI_MSI_IRQ_INDEX };
        Assert.AreEqual(0, raw.Ioctl(device, vfio.VFIO_DEVICE_GET_IRQ_INFO, &irq));
        Assert.AreEqual(vfio.VFIO_IRQ_INFO_EVENTFD | vfio.VFIO_IRQ_INFO_NORESIZE, irq.flags);
        uint vectors = irq.count;
        Assert.IsGreaterThan(0u, vectors);
        irq.index = vfio.VFIO_PCI_INTX_IRQ_INDEX;
        Assert.AreEqual(0, raw.Ioctl(device, vfio.VFIO_DEVICE_GET_IRQ_INFO, &irq));
        Assert.AreEqual(vfio.VFIO_IRQ_INFO_EVENTFD | vfio.VFIO_IRQ_INFO_MASKABLE | vfio.VFIO_IRQ_INFO_AUTOMASKED, irq.flags);
        Assert.AreEqual(1u, irq.count);
        irq.index = 5;
        Assert.AreEqual(-(int)Errno.EINVAL, raw.Ioctl(device, vfio.VFIO_DEVICE_GET_IRQ_INFO, &irq));

        const uint EventFds = vfio.VFIO_IRQ_SET_DATA_EVENTFD | vfio.VFIO_IRQ_SET_ACTION_TRIGGER;
        const uint Off = vfio.VFIO_IRQ_SET_DATA_NONE | vfio.VFIO_IRQ_SET_ACTION_TRIGGER;
        const uint Unmask = vfio.VFIO_IRQ_SET_DATA_NONE | vfio.VFIO_IRQ_SET_ACTION_UNMASK;
        const uint Msi = vfio.VFIO_PCI_MSI_IRQ_INDEX;
        const uint Intx = vfio.VFIO_PCI_INTX_IRQ_INDEX;
        using var eventFd = new EventFd();
        int good = eventFd.Descriptor.Number;
        using FileDescriptor plain = MemoryFile.Create("no-eventfd", Page);
        int SetIrqs(uint index, uint flags, uint count, int descriptor, uint argsz = 24)
        {
            byte* buffer = stackalloc byte[sizeof(vfio_irq_set) + sizeof(int)];
            *(vfio_irq_set*)buffer = new vfio_irq_set { argsz = argsz, flags = flags, index = index, count = count };
            *(int*)(buffer + sizeof(vfio_irq_set)) = descriptor;
            return raw.Ioctl(device, vfio.VFIO_DEVICE_SET_IRQS, buffer);
        }

        Assert.AreEqual(-(int)Errno.EINVAL, SetIrqs(Msi, EventFds, 1, good, argsz: 19));
        Assert.AreEqual(-(int)Errno.EINVAL, SetIrqs(Msi, EventFds, 1, good, argsz: 20));
        Assert.AreEqual(-(int)Errno.EINVAL, SetIrqs(Msi, EventFds | 64, 1, good));
        Assert.AreEqual(-(int)Errno.EINVAL, SetIrqs(5, EventFds, 1, good));
        Assert.AreEqual(-(int)Errno.EINVAL, SetIrqs(Msi, EventFds | vfio.VFIO_IRQ_SET_DATA_NONE, 1, good));
        Assert.AreEqual(-(int)Errno.EINVAL, SetIrqs(Msi, EventFds, vectors + 1, good));
        Assert.AreEqual(-(int)Errno.ENOTTY, SetIrqs(Msi, Unmask, 1, 0));
        Assert.AreEqual(-(int)Errno.EINVAL, SetIrqs(Msi, Off, 0, 0), "nothing is on");
        Assert.AreEqual(-(int)Errno.EINVAL, SetIrqs(Msi, EventFds, 1, plain.Number), "no eventfd");
        Assert.AreEqual(-(int)Errno.EBADF, SetIrqs(Msi, EventFds, 1, 999_999));

        Assert.AreEqual(0, SetIrqs(Msi, EventFds, 1, good));
        Assert.AreEqual(-(int)Errno.EINVAL, SetIrqs(Intx, EventFds, 1, good), "one kind at a time");
        Assert.AreEqual(0, SetIrqs(Msi, Off, 1, 0), "loopback");
        Assert.AreEqual(1ul, eventFd.Take());
        Assert.AreEqual(0, SetIrqs(Msi, Off, 0, 0));
        Assert.AreEqual(-(int)Errno.EINVAL, SetIrqs(Intx, Unmask, 1, 0), "the line is not on");
        Assert.AreEqual(0, SetIrqs(Intx, EventFds, 1, good));
        Assert.AreEqual(0, SetIrqs(Intx, Unmask, 1, 0));
        Assert.AreEqual(0, SetIrqs(Intx, Off, 0, 0));
    }

    private static ulong Length(RawVfio raw, int device, uint index)
    {
        var region = new vfio_region_info { argsz = (uint)sizeof(vfio_region_info), index = index };
        Assert.AreEqual(0, raw.Ioctl(device, vfio.VFIO_DEVICE_GET_REGION_INFO, &region));
        return region.size;
    }
}
