using System.Numerics;
using Vfio.Linux;
using Vfio.Testing;

namespace Vfio.Tests;

[TestClass]
public sealed class Type1IommuTests
{
    private const ulong Page = 4096;
    private static readonly PciAddress Address = PciAddress.Parse("0000:00:05.0");
    private static readonly Iova Base = new(0x10_0000);

    [TestMethod]
    [DataRow(3ul, 5ul)]
    [DataRow(64ul, 64ul)]
    [DataRow(60ul, 70ul)]
    public void Dirty_bitmap_tells_of_the_range_and_of_nothing_behind_it(ulong first, ulong second)
    {
        using var host = new SimHost();
        host.Add(new SimPlainDevice(Address), 7);
        using VfioContainer container = host.OpenContainer();
        container.OpenDevice(Address);
        Type1Iommu iommu = container.Iommu;
        using MappedMemory memory = MappedMemory.Anonymous((first + second) * Page);
        var address = new HostAddress((ulong)memory.Address);
        iommu.Map(IovaRange.Of(Base, first * Page), address, DmaAccess.ReadWrite);
        iommu.Map(IovaRange.Of(Base + (first * Page), second * Page), address + (first * Page), DmaAccess.ReadWrite);
        IovaRange both = IovaRange.Of(Base, (first + second) * Page);
        iommu.StartDirtyTracking();
        ulong[] bitmap = new ulong[4];
        for (int round = 0; round < 3; round++)
        {
            bitmap.AsSpan().Fill(ulong.MaxValue);
            iommu.GetDirtyBitmap(both, bitmap);
            Assert.AreEqual((int)(first + second), bitmap.Sum(BitOperations.PopCount));
            Assert.AreEqual(first + second, Pages(bitmap));
        }

        bitmap.AsSpan().Fill(ulong.MaxValue);
        iommu.UnmapWithDirtyBitmap(both, bitmap);
        Assert.AreEqual(first + second, Pages(bitmap));
        Assert.ThrowsExactly<ArgumentOutOfRangeException>(() => iommu.GetDirtyBitmap(IovaRange.Of(Base, 65 * Page), new ulong[1]));
        iommu.StopDirtyTracking();
        container.Dispose();
        host.Kernel.AssertNothingLeft();
    }

    [TestMethod]
    public void Unmapping_less_than_asked_for_is_an_error()
    {
        using var host = new SimHost();
        host.Add(new SimPlainDevice(Address), 7);
        using VfioContainer container = host.OpenContainer();
        container.OpenDevice(Address);
        using MappedMemory memory = MappedMemory.Anonymous(Page);
        container.Iommu.Map(IovaRange.Of(Base, Page), new HostAddress((ulong)memory.Address), DmaAccess.Read);
        LinuxException e = Assert.ThrowsExactly<LinuxException>(() => container.Iommu.Unmap(IovaRange.Of(Base, 2 * Page)));
        StringAssert.Contains(e.Message, "4096 of 8192 bytes were unmapped");
    }

    // The bits that are set, when they are the lowest ones; else more than there can be.
    private static ulong Pages(ulong[] bitmap)
    {
        ulong pages = 0;
        foreach (ulong word in bitmap)
        {
            int ones = BitOperations.TrailingZeroCount(~word);
            if (ones < 64 && (word >> ones) != 0)
            {
                return ulong.MaxValue;
            }

            pages += (ulong)ones;
        }

        return pages;
    }
}
