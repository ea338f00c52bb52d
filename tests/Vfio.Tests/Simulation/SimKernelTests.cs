using Vfio.Linux;
using Vfio.Testing;

namespace Vfio.Tests;

/// <summary>The simulation keeps its promises: limits, provoked failures, leaks and DMA faults are noticed.</summary>
[TestClass]
public sealed unsafe class SimKernelTests
{
    private const ulong Page = 4096;
    private const int Group = 3;
    private static readonly Iova Base = new(0x10_0000);
    private static readonly PciAddress Address = PciAddress.Parse("0000:00:04.0");

    [TestMethod]
    public void Device_reaches_exactly_what_is_mapped()
    {
        using var host = new SimHost();
        SimPlainDevice model = host.Add(new SimPlainDevice(Address), Group);
        using VfioContainer container = host.OpenContainer();
        container.OpenDevice(Address).EnableBusMaster();
        using MappedMemory memory = MappedMemory.Anonymous(3 * Page);
        var address = new HostAddress((ulong)memory.Address);
        // Two mappings that touch in IOVA and are swapped in memory; a third that the device may only read.
        container.Iommu.Map(IovaRange.Of(Base, Page), address + Page, DmaAccess.ReadWrite);
        container.Iommu.Map(IovaRange.Of(Base + Page, Page), address, DmaAccess.ReadWrite);
        container.Iommu.Map(IovaRange.Of(Base + (2 * Page), Page), address + (2 * Page), DmaAccess.Read);

        Assert.IsTrue(model.WriteMemory(Base + (Page - 2), [1, 2, 3, 4]));
        byte* bytes = (byte*)memory.Address;
        CollectionAssert.AreEqual((byte[])[1, 2, 3, 4], (byte[])[bytes[(2 * Page) - 2], bytes[(2 * Page) - 1], bytes[0], bytes[1]]);
        Assert.AreEqual(0x0403_0201u, model.Read<uint>(Base + (Page - 2)));
        host.Kernel.AssertNoFaults();

        Assert.IsFalse(model.Write(Base + (2 * Page), 7));
        Assert.IsFalse(model.WriteMemory(Base + (3 * Page), [1]));
        Assert.IsFalse(model.ReadMemory(new Iova((ulong)memory.Address), new byte[1]));
        StringAssert.Contains(host.Kernel.Faults[0].Reason, "allows the device Read only");
        Assert.HasCount(3, host.Kernel.TakeFaults());
        Assert.AreEqual(0, bytes[2 * Page]);
    }

    [TestMethod]
    public void Device_without_bus_mastering_or_container_reaches_nothing()
    {
        using var host = new SimHost();
        SimPlainDevice model = host.Add(new SimPlainDevice(Address), Group);
        Assert.IsFalse(model.Write(Base, 1));
        using VfioContainer container = host.OpenContainer();
        VfioDevice device = container.OpenDevice(Address);
        using MappedMemory memory = MappedMemory.Anonymous(Page);
        container.Iommu.Map(IovaRange.Of(Base, Page), new HostAddress((ulong)memory.Address), DmaAccess.ReadWrite);
        Assert.IsFalse(model.Write(Base, 1));
        device.EnableBusMaster();
        Assert.IsTrue(model.Write(Base, 1));
        device.DisableBusMaster();
        Assert.IsFalse(model.Write(Base, 1));
        Assert.HasCount(3, host.Kernel.TakeFaults());
    }

    [TestMethod]
    public void Memory_that_is_unmapped_from_the_process_while_pinned_is_a_fault()
    {
        using var host = new SimHost();
        SimPlainDevice model = host.Add(new SimPlainDevice(Address), Group);
        using VfioContainer container = host.OpenContainer();
        container.OpenDevice(Address).EnableBusMaster();
        MappedMemory memory = MappedMemory.Anonymous(Page);
        container.Iommu.Map(IovaRange.Of(Base, Page), new HostAddress((ulong)memory.Address), DmaAccess.ReadWrite);
        memory.Dispose();
        Assert.IsFalse(model.Write(Base, 1));
        StringAssert.Contains(host.Kernel.TakeFaults()[0].Reason, "was unmapped from the process");
    }

    [TestMethod]
    public void Locked_pages_are_counted_against_the_limit_each_time_they_are_mapped()
    {
        using var host = new SimHost(new SimKernel { MemlockLimit = 4 * Page });
        host.Add(new SimPlainDevice(Address), Group);
        using VfioContainer container = host.OpenContainer();
        container.OpenDevice(Address);
        using MappedMemory memory = MappedMemory.Anonymous(3 * Page);
        var address = new HostAddress((ulong)memory.Address);
        Assert.AreEqual(Errno.None, container.Iommu.TryMap(IovaRange.Of(Base, 3 * Page), address, DmaAccess.ReadWrite));
        Assert.AreEqual(3ul, host.Kernel.LockedPages);
        IovaRange second = IovaRange.Of(Base + (16 * Page), 2 * Page);
        Assert.AreEqual(Errno.ENOMEM, container.Iommu.TryMap(second, address, DmaAccess.ReadWrite));
        Assert.AreEqual(3ul, host.Kernel.LockedPages);
        Assert.AreEqual(Errno.None, container.Iommu.TryMap(IovaRange.Of(second.First, Page), address, DmaAccess.ReadWrite));
        container.Iommu.Unmap(IovaRange.Of(Base, 3 * Page));
        Assert.AreEqual(1ul, host.Kernel.LockedPages);
    }

    [TestMethod]
    public void Error_of_the_first_bad_page_comes_first()
    {
        using var host = new SimHost(new SimKernel { MemlockLimit = 2 * Page });
        host.Add(new SimPlainDevice(Address), Group);
        using VfioContainer container = host.OpenContainer();
        container.OpenDevice(Address);
        using MappedMemory memory = MappedMemory.Anonymous(4 * Page);
        var address = new HostAddress((ulong)memory.Address);
        IovaRange all = IovaRange.Of(Base, 4 * Page);
        Assert.AreEqual(0, LibC.mprotect(memory.Address + (3 * (nint)Page), (nuint)Page, Mman.PROT_READ));
        Assert.AreEqual(Errno.ENOMEM, container.Iommu.TryMap(all, address, DmaAccess.ReadWrite), "page 2 is over the limit");
        Assert.AreEqual(0, LibC.mprotect(memory.Address + (nint)Page, (nuint)Page, Mman.PROT_READ));
        Assert.AreEqual(Errno.EFAULT, container.Iommu.TryMap(all, address, DmaAccess.ReadWrite), "page 1 cannot be written");
    }

    [TestMethod]
    public void Provoked_failures_do_nothing_and_happen_once()
    {
        using var host = new SimHost();
        host.Add(new SimPlainDevice(Address), Group);
        host.Kernel.FailAt(2, Errno.EACCES);
        LinuxException e = Assert.ThrowsExactly<LinuxException>(host.OpenContainer);
        Assert.AreEqual(("VFIO_GET_API_VERSION", Errno.EACCES), (e.Call, e.Errno));
        using VfioContainer container = host.OpenContainer();
        container.OpenDevice(Address);
        using MappedMemory memory = MappedMemory.Anonymous(2 * Page);
        var address = new HostAddress((ulong)memory.Address);

        host.Kernel.FailAt(2, Errno.ENOMEM, "VFIO_IOMMU_MAP_DMA");
        Assert.AreEqual(Errno.None, container.Iommu.TryMap(IovaRange.Of(Base, Page), address, DmaAccess.Read));
        Assert.AreEqual(Errno.ENOMEM, container.Iommu.TryMap(IovaRange.Of(Base + Page, Page), address, DmaAccess.Read));
        Assert.HasCount(1, host.Kernel.Mappings);
        Assert.AreEqual(Errno.None, container.Iommu.TryMap(IovaRange.Of(Base + Page, Page), address, DmaAccess.Read));

        host.Kernel.FailMapsTouching(address + (Page + 17));
        IovaRange wide = IovaRange.Of(Base + (8 * Page), 2 * Page);
        Assert.AreEqual(Errno.EFAULT, container.Iommu.TryMap(wide, address, DmaAccess.Read));
        Assert.AreEqual(Errno.None, container.Iommu.TryMap(IovaRange.Of(wide.First, Page), address, DmaAccess.Read));
        host.Kernel.FailNothing();
        Assert.AreEqual(Errno.None, container.Iommu.TryMap(IovaRange.Of(Base + (16 * Page), 2 * Page), address, DmaAccess.Read));
        Assert.AreEqual(6, host.Kernel.Count("VFIO_IOMMU_MAP_DMA"));
        SimCall last = host.Kernel.Calls[^1];
        Assert.AreEqual($"argsz 32, flags 0x1, vaddr 0x{address.Value:x}, iova 0x110000, size 0x2000", last.Arguments);
    }

    [TestMethod]
    public void What_is_left_open_mapped_pinned_or_refused_is_reported()
    {
        var host = new SimHost();
        SimPlainDevice model = host.Add(new SimPlainDevice(Address), Group);
        VfioContainer container = host.OpenContainer();
        _ = container.OpenDevice(Address).Bar(0);
        using MappedMemory memory = MappedMemory.Anonymous(Page);
        container.Iommu.Map(IovaRange.Of(Base, Page), new HostAddress((ulong)memory.Address), DmaAccess.ReadWrite);
        _ = model.Write(Base, 1);
        AssertFailedException e = Assert.ThrowsExactly<AssertFailedException>(host.Kernel.AssertNothingLeft);
        foreach (string left in (string[])["/dev/vfio/vfio", "/dev/vfio/3", ": 0000:00:04.0", "mapping iova 0x100000-0x100fff",
            "device memory mapped", "1 pages pinned", "DMA fault of 0000:00:04.0"])
        {
            StringAssert.Contains(e.Message, left);
        }

        container.Dispose();
        AssertFailedException faults = Assert.ThrowsExactly<AssertFailedException>(host.Dispose);
        StringAssert.Contains(faults.Message, "bus mastering is off");
        Assert.IsFalse(faults.Message.Contains("descriptor", StringComparison.Ordinal));
    }

    [TestMethod]
    public void A_container_closes_and_unpins_though_interrupts_cannot_be_switched_off()
    {
        using var host = new SimHost();
        host.Add(new SimPlainDevice(Address), Group);
        VfioContainer container = host.OpenContainer();
        VfioDevice device = container.OpenDevice(Address);
        _ = device.EnableInterrupts(VfioInterruptKind.Msi, 1);
        host.Kernel.FailAt(1, Errno.EIO, "VFIO_DEVICE_SET_IRQS");
        container.Dispose();
        host.Kernel.AssertNothingLeft();
    }

    [TestMethod]
    public void Interrupts_reach_real_eventfds_and_the_line_stays_masked_until_it_is_unmasked()
    {
        using var host = new SimHost();
        SimPlainDevice model = host.Add(new SimPlainDevice(Address), Group);
        using VfioContainer container = host.OpenContainer();
        VfioDevice device = container.OpenDevice(Address);
        using (VfioInterrupts messages = device.EnableInterrupts(VfioInterruptKind.Msi, 1))
        {
            model.SendMessage(VfioInterruptKind.Msi, 0);
            model.SendMessage(VfioInterruptKind.Msi, 0);
            model.SendMessage(VfioInterruptKind.Msix, 0);
            Assert.AreEqual(2ul, messages.Vectors[0].Take());
        }

        using VfioInterrupts line = device.EnableInterrupts(VfioInterruptKind.Intx, 1);
        model.SetInterruptLine(true);
        model.SetInterruptLine(true);
        Assert.AreEqual(1ul, line.Vectors[0].Take());
        line.Unmask();
        Assert.AreEqual(1ul, line.Vectors[0].Take(), "the level is still high");
        model.SetInterruptLine(false);
        line.Unmask();
        Assert.AreEqual(0ul, line.Vectors[0].Take());
        model.SetInterruptLine(true);
        Assert.AreEqual(1ul, line.Vectors[0].Take());
    }

    [TestMethod]
    public void Mapped_register_memory_is_shared_with_the_model_and_not_counted_as_locked()
    {
        using var host = new SimHost();
        SimPlainDevice model = host.Add(new SimPlainDevice(Address), Group);
        using VfioContainer container = host.OpenContainer();
        VfioRegion bar = container.OpenDevice(Address).Bar(0);
        Assert.IsTrue(bar.IsMapped);
        bar.Write32(16, 0x1234_5678);
        Assert.AreEqual(0x78, model.Bar(0)!.Memory[16]);
        var address = new HostAddress((ulong)bar.AddressOf(0, 4));
        container.Iommu.Map(IovaRange.Of(Base, Page), address, DmaAccess.ReadWrite);
        Assert.AreEqual(0ul, host.Kernel.LockedPages);
        container.Iommu.Unmap(IovaRange.Of(Base, Page));
    }

    [TestMethod]
    public void Group_that_takes_ranges_away_is_refused_where_they_are_in_use()
    {
        using var host = new SimHost();
        host.Add(new SimPlainDevice(Address), Group);
        PciAddress other = PciAddress.Parse("0000:00:05.0");
        host.Add(new SimPlainDevice(other), Group + 1);
        host.Kernel.Group(Group + 1).Reserved = [new IovaRange(Base, Base + (Page - 1))];
        using VfioContainer container = host.OpenContainer();
        container.OpenDevice(Address);
        using MappedMemory memory = MappedMemory.Anonymous(Page);
        container.Iommu.Map(IovaRange.Of(Base, Page), new HostAddress((ulong)memory.Address), DmaAccess.Read);
        LinuxException e = Assert.ThrowsExactly<LinuxException>(() => container.OpenDevice(other));
        Assert.AreEqual(("VFIO_GROUP_SET_CONTAINER", Errno.EINVAL), (e.Call, e.Errno));
        container.Iommu.Unmap(IovaRange.Of(Base, Page));
        container.OpenDevice(other);
        Assert.IsFalse(container.Iommu.ValidRanges.Any(r => r.Contains(Base)));
        Assert.IsTrue(container.Iommu.ValidRanges.Any(r => r.Contains(Base + Page)));
    }

    [TestMethod]
    public void Missing_parts_of_the_machine_are_refused_as_the_kernel_does()
    {
        foreach ((SimKernel kernel, Errno errno) in ((SimKernel, Errno)[])[
            (new SimKernel { HasVfio = false }, Errno.ENOENT),
            (new SimKernel { HasType1Version2 = false }, Errno.EINVAL),
            (new SimKernel { HasInterruptRemapping = false }, Errno.EPERM)])
        {
            using var host = new SimHost(kernel);
            host.Add(new SimPlainDevice(Address), Group);
            LinuxException e = Assert.ThrowsExactly<LinuxException>(() =>
            {
                using VfioContainer container = host.OpenContainer();
                container.OpenDevice(Address);
            });
            Assert.AreEqual(errno, e.Errno);
        }
    }
}
