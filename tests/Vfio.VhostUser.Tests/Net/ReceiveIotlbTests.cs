using Vfio.Virtio;

namespace Vfio.VhostUser.Tests.Net;

[TestClass]
public sealed class ReceiveIotlbTests : IDisposable
{
    private readonly Guest _guest = new();

    public void Dispose() => _guest.Dispose();

    [TestMethod]
    [DataRow(VirtioFeatures.Version1)]
    [DataRow(VirtioFeatures.Version1 | VirtioFeatures.RingPacked)]
    public void Buffers_that_are_known_do_not_wait_for_those_behind_them(VirtioFeatures features)
    {
        const int Page = 4096;
        var iotlb = new DeviceIotlb(missTimeout: TimeSpan.FromDays(1));
        var asked = new List<IotlbQuestion>();
        using var view = new IotlbView(iotlb, questions =>
        {
            asked.AddRange(questions);
            return questions.Length;
        });
        (DriverQueue driver, ReceiveQueue device) = _guest.Receive(features, iotlb: view);
        // Each begins in a page of its own, and may end in the next one's.
        PinnedBuffer[] buffers = [.. Enumerable.Range(0, 4).Select(_ => _guest.Allocate(Page))];
        foreach (PinnedBuffer buffer in buffers)
        {
            Assert.IsTrue(driver.TryAdd([new DmaSegment(buffer, DeviceAccess.Write)], out _));
        }

        driver.Publish();
        _guest.Batch.Append(100);
        Assert.AreEqual(0, device.Enqueue(_guest.Batch));
        Assert.IsTrue(device.LacksTranslation && view.IsWaiting);
        Assert.IsGreaterThanOrEqualTo(buffers.Length, asked.Count, "those behind the first were not asked for with it");
        foreach (PinnedBuffer buffer in buffers[..2])
        {
            iotlb.Update(new IotlbRange(IovaRange.Of(buffer.Iova, Page), buffer.Address, DmaAccess.ReadWrite));
        }

        Assert.AreEqual(1, device.Enqueue(_guest.Batch));
        Assert.IsFalse(device.LacksTranslation || view.IsWaiting, "it waits for what it does not need yet");
        _guest.Batch.Append(100);
        Assert.AreEqual(1, device.Enqueue(_guest.Batch));
        _guest.Batch.Append(100);
        Assert.AreEqual(0, device.Enqueue(_guest.Batch));
        Assert.IsTrue(device.LacksTranslation && view.IsWaiting);
        CollectionAssert.AllItemsAreUnique(asked);
    }
}
