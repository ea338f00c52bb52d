using Vfio.Testing;
using Vfio.Virtio;

namespace Vfio.VhostUser.Tests;

[TestClass]
public sealed class IotlbTranslatorTests
{
    [TestMethod]
    [DataRow((ulong)VirtioFeatures.None)]
    [DataRow((ulong)VirtioFeatures.RingPacked)]
    public void Each_buffer_looked_up_is_one_hit_wherever_it_was_found(ulong features)
    {
        const int Size = 32;
        const int Count = 20;
        int bytes = DriverQueue.BytesFor(Size, (VirtioFeatures)features, 0);
        using var memory = new GuardedMemory(bytes, alignment: 128);
        using var data = new GuardedMemory(4096);
        var start = new Iova(0x10_0000);
        var driver = DriverQueue.Create(Size, (VirtioFeatures)features, new PinnedBuffer(new Iova(0x20_0000), memory.Address, bytes));
        var device = DeviceQueue.Create(Size, driver.Addresses, (VirtioFeatures)features, use: BufferUse.OnlyReads);
        var iotlb = new DeviceIotlb();
        // Two ranges in one page take each other's place among the last hits; the rest of a batch finds its own there.
        iotlb.Update(new IotlbRange(IovaRange.Of(start, 2048), data.Address, DmaAccess.Read));
        iotlb.Update(new IotlbRange(IovaRange.Of(start + 2048, 2048), data.Address + 2048, DmaAccess.ReadWrite));
        using var view = new IotlbView(iotlb, questions => questions.Length);
        var translator = new IotlbTranslator(view);
        for (int i = 0; i < Count; i++)
        {
            ulong offset = i < 4 ? (ulong)(i % 2 * 2048) : 0;
            Assert.IsTrue(driver.TryAdd([new DmaSegment(new PinnedBuffer(start + offset, data.Address + offset, 64), DeviceAccess.Read)], out _));
        }

        driver.Publish();
        var chains = new DescriptorChain[Size];
        var segments = new HostSegment[Size];
        for (int look = 1; look <= 3; look++)
        {
            Assert.IsTrue(view.TryBegin());
            Assert.AreEqual(Count, device.Peek(ref translator, chains, segments));
            Assert.AreEqual(data.Address + 2048, segments[1].Address);
            Assert.AreEqual(look * Count, iotlb.Counters.Hits);
        }

        Assert.AreEqual(0, iotlb.Counters.Misses);
    }
}
