using Vfio.Linux;
using Vfio.Testing;

namespace Vfio.Virtio.Tests;

/// <summary>The simulated virtio device, driven register by register and by the product's transport.</summary>
[TestClass]
public sealed class SimVirtioPciDeviceTests
{
    private const ulong Features =
        (1ul << virtio_config.VIRTIO_F_VERSION_1) | (1ul << virtio_config.VIRTIO_F_ACCESS_PLATFORM) | (1ul << 5);

    private static readonly PciAddress Address = PciAddress.Parse("0000:00:04.0");

    [TestMethod]
    [DataRow(false)]
    [DataRow(true)]
    public void Transport_negotiates_and_resets(bool mapsDoorbells)
    {
        using var host = new SimHost();
        Model model = host.Add(new Model(Features, vectors: 0, mapsDoorbells), 3);
        using VfioContainer container = host.OpenContainer();
        VirtioPciTransport transport = VirtioPciTransport.Open(container.OpenDevice(Address));
        Assert.AreEqual(2, transport.QueueCount);
        Assert.AreEqual(Features, (ulong)transport.Negotiate((VirtioFeatures)(1ul << 5)));
        Assert.AreEqual(Features, model.DriverFeatures);
        Assert.AreEqual(256, transport.MaxQueueSize(0));
        Assert.AreEqual(64, transport.MaxQueueSize(1));
        Assert.AreEqual(0, transport.MaxQueueSize(2));
        transport.Start();
        Assert.IsTrue(model.IsRunning);
        model.Break();
        Assert.IsTrue(transport.NeedsReset);
        byte[] configuration = new byte[8];
        Assert.AreEqual(8, transport.ReadConfiguration(configuration));
        CollectionAssert.AreEqual((byte[])[0, 1, 2, 3, 4, 5, 6, 7], configuration);
        int stops = model.Stops;
        transport.Reset();
        Assert.AreEqual(stops + 1, model.Stops);
        Assert.AreEqual(0, model.Status);
    }

    [TestMethod]
    public void Choice_without_version_1_is_not_accepted()
    {
        using var host = new SimHost();
        _ = host.Add(new Model(Features, vectors: 0, mapsDoorbells: false), 3);
        using VfioContainer container = host.OpenContainer();
        VfioRegion bar = container.OpenDevice(Address).Bar(4);
        Assert.IsFalse(bar.IsMapped);
        bar.Write32(8, 1);
        bar.Write32(12, 2);
        bar.Write8(20, 1);
        bar.Write8(20, 3);
        bar.Write8(20, 11);
        Assert.AreEqual(3, bar.Read8(20));
        bar.Write32(12, 3);
        bar.Write8(20, 11);
        Assert.AreEqual(11, bar.Read8(20));
    }

    [TestMethod]
    public void Queue_is_set_up_by_selection_and_its_doorbell_traps()
    {
        using var host = new SimHost();
        Model model = host.Add(new Model(Features, vectors: 2, mapsDoorbells: false), 3);
        using VfioContainer container = host.OpenContainer();
        VfioDevice device = container.OpenDevice(Address);
        VfioRegion bar = device.Bar(4);
        bar.Write16(22, 1);
        Assert.AreEqual(64, bar.Read16(24));
        bar.Write16(24, 32);
        bar.Write16(26, 2);
        Assert.AreEqual(0xffff, bar.Read16(26), "there are 2 vectors");
        bar.Write16(26, 1);
        bar.Write64(32, 0x1_0000_1000);
        bar.Write64(40, 0x2000);
        bar.Write64(48, 0x3000);
        bar.Write16(28, 1);
        SimVirtqueue queue = model.Queues[1];
        Assert.AreEqual((32, true, new Iova(0x1_0000_1000), new Iova(0x2000), new Iova(0x3000)),
            (queue.Size, queue.IsEnabled, queue.Descriptors, queue.Driver, queue.Device));
        bar.Write16(22, 0);
        Assert.AreEqual(256, bar.Read16(24));

        bar.Write16(0x3000 + (4ul * 1), 1);
        bar.Write16(0x3000, 0);
        CollectionAssert.AreEqual((int[])[1], model.Notified, "queue 0 is not enabled");

        using VfioInterrupts vectors = device.EnableInterrupts(VfioInterruptKind.Msix, 2);
        model.InterruptQueue(1);
        Assert.AreEqual(0ul, vectors.Vectors[0].Take());
        Assert.AreEqual(1ul, vectors.Vectors[1].Take());
        Assert.AreEqual(0, bar.Read8(0x1000), "MSI-X leaves the ISR alone");
        _ = Assert.ThrowsExactly<InvalidOperationException>(() => bar.Read32(16), "a register of two bytes");
    }

    [TestMethod]
    public void Line_is_lowered_by_reading_the_isr()
    {
        using var host = new SimHost();
        Model model = host.Add(new Model(Features, vectors: 0, mapsDoorbells: false), 3);
        using VfioContainer container = host.OpenContainer();
        VfioDevice device = container.OpenDevice(Address);
        using VfioInterrupts line = device.EnableInterrupts(VfioInterruptKind.Intx, 1);
        model.InterruptQueue(0);
        model.InterruptConfiguration();
        Assert.AreEqual(1ul, line.Vectors[0].Take());
        Assert.AreEqual(3, device.Bar(4).Read8(0x1000));
        Assert.AreEqual(0, device.Bar(4).Read8(0x1000));
        line.Unmask();
        Assert.AreEqual(0ul, line.Vectors[0].Take());
    }

    private sealed class Model(ulong features, int vectors, bool mapsDoorbells)
        : SimVirtioPciDevice(SimVirtioPciDeviceTests.Address, type: 2, features, [256, 64], vectors, mapsDoorbells)
    {
        public List<int> Notified { get; } = [];

        public int Stops { get; private set; }

        protected override void OnNotify(SimVirtqueue queue, uint value)
        {
            Assert.AreEqual((uint)queue.Index, value);
            Notified.Add(queue.Index);
        }

        protected override void OnStop() => Stops++;

        protected override uint OnReadConfiguration(ulong offset, int width)
        {
            uint value = 0;
            for (int i = 0; i < width; i++)
            {
                value |= (uint)(offset + (ulong)i) << (8 * i);
            }

            return value;
        }
    }
}
