using Vfio.Testing;

namespace Vfio.Virtio.Tests;

/// <summary>The network driver on a simulated device that lacks something, or does not keep to the specification in one chosen
/// point.</summary>
[TestClass]
public sealed class HostileNetDeviceTests
{
    private const VirtioFeatures Modern = VirtioFeatures.Version1 | VirtioFeatures.AccessPlatform;

    [TestMethod]
    [DataRow(false)]
    [DataRow(true)]
    public void Nonsense_in_a_received_frame_resets_the_device(bool packed)
    {
        Check("received a buffer of 11 bytes", new SimVirtioNetOptions { LengthOf = _ => 11 });
        Check("received a buffer of 0 bytes", new SimVirtioNetOptions { LengthOf = _ => 0 });
        Check("UsedLengthTooLarge", new SimVirtioNetOptions { LengthOf = _ => 2049 });
        Check("UsedLengthTooLarge", new SimVirtioNetOptions { LengthOf = _ => uint.MaxValue });
        Check("received a frame in 0 buffers", new SimVirtioNetOptions { BuffersOf = _ => 0 });
        Check("received a frame in 2 buffers", new SimVirtioNetOptions { BuffersOf = _ => 2 });
        Check("received a frame in 65535 buffers", new SimVirtioNetOptions { BuffersOf = _ => 65535 });
        Check("UnknownBuffer", new SimVirtioNetOptions { IdOf = _ => 256 });
        Check("UnknownBuffer", new SimVirtioNetOptions { IdOf = _ => ushort.MaxValue });

        void Check(string expected, SimVirtioNetOptions model)
        {
            using var sim = new SimCard(model, new VirtioNetOptions { RingFeatures = packed ? VirtioFeatures.RingPacked : VirtioFeatures.None });
            using VirtioNetDevice card = sim.Open();
            sim.Model.Deliver(SimCard.Frame(100));
            IsStopped(sim, card, expected, () => card.Receive(new NetBuffer[8]));
        }
    }

    [TestMethod]
    public void Empty_piece_of_a_larger_frame_resets_the_device()
    {
        int used = 0;
        using var sim = new SimCard(
            new SimVirtioNetOptions { LengthOf = n => ++used == 3 ? 0 : n },
            new VirtioNetOptions { BufferBytes = 256, RingFeatures = VirtioFeatures.None });
        using VirtioNetDevice card = sim.Open();
        sim.Model.Deliver(SimCard.Frame(1000));
        IsStopped(sim, card, "received a buffer of 0 bytes", () => card.Receive(new NetBuffer[8]));
    }

    [TestMethod]
    public void The_same_buffer_used_twice_resets_the_device()
    {
        ushort? first = null;
        using var sim = new SimCard(
            new SimVirtioNetOptions { IdOf = id => first ??= id }, new VirtioNetOptions { RingFeatures = VirtioFeatures.None });
        using VirtioNetDevice card = sim.Open();
        sim.Model.Deliver(SimCard.Frame(100));
        sim.Model.Deliver(SimCard.Frame(100));
        IsStopped(sim, card, "UnknownBuffer", () => card.Receive(new NetBuffer[8]));
    }

    [TestMethod]
    public void Nonsense_for_a_sent_frame_resets_the_device()
    {
        using var sim = new SimCard(
            new SimVirtioNetOptions { IdOf = id => (ushort)(id + 1) }, new VirtioNetOptions { RingFeatures = VirtioFeatures.None });
        using VirtioNetDevice card = sim.Open();
        var frames = new NetBuffer[1];
        _ = card.Allocate(frames);
        Assert.AreEqual(1, card.Send([frames[0].WithLength(60)]));
        IsStopped(sim, card, "in the transmit queue with a ring error: UnknownBuffer", () => card.Allocate(new NetBuffer[1000]));
    }

    [TestMethod]
    public void Device_that_gave_up_is_reset()
    {
        using var sim = new SimCard();
        using VirtioNetDevice card = sim.Open();
        card.CheckHealth();
        sim.Model.Break();
        IsStopped(sim, card, "DEVICE_NEEDS_RESET", card.CheckHealth);
    }

    [TestMethod]
    public void Device_that_lacks_something_is_refused_and_reset()
    {
        Check("does not offer VIRTIO_F_VERSION_1", new SimVirtioNetOptions { Features = VirtioFeatures.AccessPlatform });
        Check("does not offer VIRTIO_F_ACCESS_PLATFORM", new SimVirtioNetOptions { Features = VirtioFeatures.Version1 });
        Check("queue 1 has 1 entries", new SimVirtioNetOptions { QueueSizes = (256, 1) });
        Check("queue 0 has 0 entries", new SimVirtioNetOptions { QueueSizes = (0, 256) });
        Check("its MTU is 67", new SimVirtioNetOptions { Mtu = 67 });
        Check("MTU of 9000 bytes takes 5 buffers", new SimVirtioNetOptions { Mtu = 9000, Features = Modern | (VirtioFeatures)NetFeatures.Mtu });
        Check("no VIRTIO_NET_F_MRG_RXBUF", new SimVirtioNetOptions { Features = Modern }, new VirtioNetOptions { BufferBytes = 1024 });
        Check("4 are possible", new SimVirtioNetOptions { QueueSizes = (256, 4) }, new VirtioNetOptions { BufferBytes = 256 });

        static void Check(string expected, SimVirtioNetOptions model, VirtioNetOptions? options = null)
        {
            using var sim = new SimCard(model, options);
            StringAssert.Contains(Assert.ThrowsExactly<VirtioException>(sim.Open).Message, expected);
            Assert.AreEqual(0, sim.Model.Status);
            sim.Unmap();
        }
    }

    [TestMethod]
    public void Another_kind_of_device_is_refused()
    {
        using var sim = new SimDisk();
        VirtioException e = Assert.ThrowsExactly<VirtioException>(
            () => VirtioNetDevice.Open(sim.Device, sim.Data(0, 1 << 20), new VirtioNetOptions { QueueSize = 64 }));
        StringAssert.Contains(e.Message, "1af4:1042 is no virtio network device");
    }

    [TestMethod]
    [DataRow(0, 2048, 64)]
    [DataRow(3, 2048, 64)]
    [DataRow(65536, 2048, 64)]
    [DataRow(256, 64, 64)]
    [DataRow(256, 1000, 64)]
    [DataRow(256, 65600, 64)]
    [DataRow(256, 2048, 0)]
    public void Options_that_make_no_sense_are_refused(int queueSize, int bufferBytes, int spare) =>
        Assert.ThrowsExactly<ArgumentOutOfRangeException>(
            () => new VirtioNetOptions { QueueSize = queueSize, BufferBytes = bufferBytes, SpareBuffers = spare }.ArenaBytes);

    private static void IsStopped(SimCard sim, VirtioNetDevice card, string expected, Action action)
    {
        StringAssert.Contains(Assert.ThrowsExactly<VirtioException>(action).Message, expected);
        Assert.AreEqual(0, sim.Model.Status, "reset before anybody hears of it");
        sim.Unmap();
        _ = Assert.ThrowsExactly<ObjectDisposedException>(() => card.Receive(new NetBuffer[8]));
        _ = Assert.ThrowsExactly<ObjectDisposedException>(() => card.Send([]));
    }
}
