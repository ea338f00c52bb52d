using Vfio.Virtio;

namespace Vfio.VhostUser.Tests.Net;

[TestClass]
public sealed class TransmitIotlbTests : IDisposable
{
    private readonly Guest _guest = new();

    public void Dispose() => _guest.Dispose();

    [TestMethod]
    [DataRow(VirtioFeatures.Version1)]
    [DataRow(VirtioFeatures.Version1 | VirtioFeatures.RingPacked)]
    public void What_is_wrong_where_only_a_look_ahead_reaches_costs_no_frame_before_it(VirtioFeatures features)
    {
        const int Frames = FrameBatch.Capacity + 2;
        var iotlb = new DeviceIotlb(missTimeout: TimeSpan.FromDays(1));
        using var view = new IotlbView(iotlb, questions => questions.Length);
        (DriverQueue driver, TransmitQueue plain) = _guest.Transmit(features);
        var device = TransmitQueue.Create(plain.Ring with { Iotlb = view }, new NetQueueCounters());
        PinnedBuffer first = _guest.Allocate(1);
        for (int i = 0; i < Frames; i++)
        {
            _guest.Send(driver, new byte[60]);
        }

        // A transmit ring's buffers are read.
        Assert.IsTrue(driver.TryAdd([new DmaSegment(_guest.Allocate(64), DeviceAccess.Write)], out _));
        driver.Publish();
        Assert.AreEqual(0, device.Dequeue(_guest.Batch));
        Assert.IsTrue(device.LacksTranslation, "nothing was missing, so nothing is looked at ahead of need");
        iotlb.Update(new IotlbRange(IovaRange.Of(first.Iova, 1 << 20), first.Address, DmaAccess.ReadWrite));

        Assert.AreEqual(FrameBatch.Capacity, device.Dequeue(_guest.Batch));
        Assert.AreEqual(RingError.None, device.Error);
        _guest.Batch.Clear();
        Assert.AreEqual(Frames - FrameBatch.Capacity, device.Dequeue(_guest.Batch));
        _guest.Batch.Clear();
        Assert.AreEqual(0, device.Dequeue(_guest.Batch));
        Assert.AreNotEqual(RingError.None, device.Error, "it is wrong all the same");
    }
}
