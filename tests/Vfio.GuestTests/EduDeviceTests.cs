using System.Security.Cryptography;
using Vfio.Linux;

namespace Vfio.GuestTests;

/// <summary>Containers, devices, registers, interrupts and DMA on the real kernel, with a device that is not virtio.</summary>
[TestClass]
public sealed unsafe class EduDeviceTests
{
    private const ulong Page = 4096;
    private static readonly Iova Base = new(0x10_0000);

    [TestMethod]
    public void Registers_answer_with_exact_widths()
    {
        using EduDevice edu = EduDevice.Open();
        Assert.AreEqual(0x010000edu, edu.Id);
        Assert.AreEqual(~0x12345678u, edu.Invert(0x12345678));
        Assert.IsTrue(edu.RegistersAreMapped);
        Assert.AreEqual(0x1234, edu.Device.Configuration.Read16(0));
        Assert.AreEqual(0x11e8, edu.Device.Configuration.Read16(2));
    }

    [TestMethod]
    public void Device_copies_memory_by_iova()
    {
        using EduDevice edu = EduDevice.Open();
        using MappedMemory memory = MappedMemory.Anonymous(4 * Page);
        var bytes = new Span<byte>((void*)memory.Address, (int)memory.Length);
        RandomNumberGenerator.Fill(bytes);
        byte[] source = bytes[..EduDevice.TransferSize].ToArray();
        IovaRange range = IovaRange.Of(Base, memory.Length);
        edu.Container.Iommu.Map(range, new HostAddress((ulong)memory.Address), DmaAccess.ReadWrite);

        edu.ReadFromMemory(Base, EduDevice.TransferSize);
        edu.WriteToMemory(Base + (3 * Page), EduDevice.TransferSize);

        CollectionAssert.AreEqual(source, bytes.Slice((int)(3 * Page), EduDevice.TransferSize).ToArray());
        edu.Container.Iommu.Unmap(range);
    }

    [TestMethod]
    public void Device_writes_nothing_where_nothing_is_mapped_or_writing_is_not_allowed()
    {
        using EduDevice edu = EduDevice.Open();
        using MappedMemory memory = MappedMemory.Anonymous(3 * Page);
        var bytes = new Span<byte>((void*)memory.Address, (int)memory.Length);
        bytes.Fill(0x5a);
        Type1Iommu iommu = edu.Container.Iommu;
        var address = new HostAddress((ulong)memory.Address);
        iommu.Map(IovaRange.Of(Base, Page), address, DmaAccess.ReadWrite);
        iommu.Map(IovaRange.Of(Base + Page, Page), address + Page, DmaAccess.Read);
        iommu.Map(IovaRange.Of(Base + (2 * Page), Page), address + (2 * Page), DmaAccess.ReadWrite);
        bytes[..(int)Page].Fill(0xa5);
        edu.ReadFromMemory(Base, EduDevice.TransferSize);
        iommu.Unmap(IovaRange.Of(Base + (2 * Page), Page));

        foreach (Iova refused in (Iova[])[Base + Page, Base + (2 * Page)])
        {
            using var fault = new ExpectedFault(refused);
            edu.WriteToMemory(refused, EduDevice.TransferSize);
        }

        Assert.AreEqual(-1, bytes[(int)Page..].IndexOfAnyExcept((byte)0x5a), "a refused write changed memory");
        edu.WriteToMemory(Base, EduDevice.TransferSize);
        Assert.AreEqual(-1, bytes[..(int)Page].IndexOfAnyExcept((byte)0xa5));
    }

    [TestMethod]
    [DataRow(VfioInterruptKind.Msi)]
    [DataRow(VfioInterruptKind.Intx)]
    public void Interrupts_arrive_on_the_eventfd(VfioInterruptKind kind)
    {
        using EduDevice edu = EduDevice.Open();
        using VfioInterrupts interrupts = edu.Device.EnableInterrupts(kind, 1);
        for (uint round = 1; round <= 3; round++)
        {
            edu.RaiseInterrupt(round);
            Assert.IsTrue(interrupts.Vectors[0].Wait(TimeSpan.FromSeconds(10)), $"no {kind} interrupt in round {round}");
            Assert.AreNotEqual(0ul, interrupts.Vectors[0].Take());
            Assert.AreEqual(round, edu.AcknowledgeInterrupts());
            interrupts.Unmask();
        }
    }

    [TestMethod]
    public void More_vectors_than_the_device_has_are_refused()
    {
        using EduDevice edu = EduDevice.Open();
        LinuxException e = Assert.ThrowsExactly<LinuxException>(() => edu.Device.EnableInterrupts(VfioInterruptKind.Msi, 9));
        StringAssert.Contains(e.Message, "9 vectors of Msi asked for, 1 there");
    }

    [TestMethod]
    public void Group_held_by_another_is_said()
    {
        using EduDevice edu = EduDevice.Open();
        using VfioContainer second = VfioContainer.Open();
        LinuxException e = Assert.ThrowsExactly<LinuxException>(() => second.OpenDevice(EduDevice.Address));
        Assert.AreEqual(Errno.EBUSY, e.Errno);
        StringAssert.Contains(e.Message, "another process holds the group");
    }

    [TestMethod]
    public void Valid_ranges_exclude_the_interrupt_window_and_entries_are_counted()
    {
        using EduDevice edu = EduDevice.Open();
        Type1Iommu iommu = edu.Container.Iommu;
        Assert.AreEqual(Page, iommu.SmallestPageSize);
        Assert.IsFalse(iommu.ValidRanges.Any(r => r.Contains(new Iova(0xfee0_0000))));
        Assert.IsTrue(iommu.ValidRanges.Any(r => r.Contains(Base)));
        uint before = iommu.AvailableEntries ?? 0;
        using MappedMemory memory = MappedMemory.Anonymous(Page);
        iommu.Map(IovaRange.Of(Base, Page), new HostAddress((ulong)memory.Address), DmaAccess.Read);
        iommu.Refresh();
        Assert.AreEqual(before - 1, iommu.AvailableEntries);
        iommu.Unmap(IovaRange.Of(Base, Page));
        iommu.Refresh();
        Assert.AreEqual(before, iommu.AvailableEntries);
    }

    [TestMethod]
    public void Kernel_reports_every_mapped_page_dirty_for_an_ordinary_device()
    {
        using EduDevice edu = EduDevice.Open();
        Type1Iommu iommu = edu.Container.Iommu;
        using MappedMemory memory = MappedMemory.Anonymous(16 * Page);
        IovaRange range = IovaRange.Of(Base, memory.Length);
        iommu.Map(range, new HostAddress((ulong)memory.Address), DmaAccess.ReadWrite);
        iommu.StartDirtyTracking();
        ulong[] bitmap = new ulong[1];
        for (int round = 0; round < 2; round++)
        {
            bitmap[0] = 0;
            iommu.GetDirtyBitmap(range, bitmap);
            Assert.AreEqual(0xfffful, bitmap[0]);
        }

        bitmap[0] = 0;
        iommu.UnmapWithDirtyBitmap(range, bitmap);
        Assert.AreEqual(0xfffful, bitmap[0]);
        iommu.StopDirtyTracking();
    }
}
