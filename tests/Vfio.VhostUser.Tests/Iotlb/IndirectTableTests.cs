using System.Buffers.Binary;
using Vfio.Linux;
using Vfio.Testing;
using Vfio.Virtio;

namespace Vfio.VhostUser.Tests;

/// <summary>A split ring with one chain in an indirect table, whose first page is known and whose others are not.</summary>
[TestClass]
public sealed class IndirectTableTests : IDisposable
{
    private const ulong Table = 0x10_0000;
    private const ulong Data = 0x20_0000;
    private const uint Page = 4096;
    private const int Entries = 3 * (int)Page / 16;
    private const VirtioFeatures Features = VirtioFeatures.Version1 | VirtioFeatures.RingIndirectDesc;

    private readonly List<IotlbQuestion[]> _bursts = [];
    private readonly DeviceIotlb _iotlb = new();
    private readonly GuardedMemory _pages = new(3 * (int)Page);
    private readonly IotlbView _view;
    private DescriptorChain _chain;

    public IndirectTableTests() => _view = new IotlbView(_iotlb, questions =>
    {
        _bursts.Add(questions.ToArray());
        return questions.Length;
    });

    public void Dispose()
    {
        _view.Dispose();
        _pages.Dispose();
    }

    [TestMethod]
    public void A_table_asks_for_all_its_missing_pages_at_once()
    {
        for (int i = 0; i < Entries; i++)
        {
            Set(_pages.Span[(16 * i)..], Data, 1, i + 1 < Entries ? virtio_ring.VRING_DESC_F_NEXT : 0, i + 1);
        }

        using var ring = new Ring(1024, Entries * 16);
        Tell(0);
        Assert.AreEqual(0, Peek(ring.Queue));
        CollectionAssert.AreEqual(new[] { Miss(Table + Page), Miss(Table + (2 * Page)) }, _bursts[0]);
        Tell(1);
        Tell(2);
        Assert.AreEqual(0, Peek(ring.Queue));
        CollectionAssert.AreEqual(new[] { Miss(Data) }, _bursts[1]);
        _iotlb.Update(new IotlbRange(IovaRange.Of(new Iova(Data), Page), _pages.Address, DmaAccess.Read));
        Assert.AreEqual(1, Peek(ring.Queue));
        Assert.AreEqual((ulong)Entries, _chain.ReadableLength);
        Assert.HasCount(2, _bursts);
    }

    [TestMethod]
    public void A_table_asks_for_no_more_than_a_chain_can_reach()
    {
        // A gigabyte of entries, of which a chain in this ring has eight; the first has no length.
        using var ring = new Ring(8, 1 << 30);
        Tell(0);
        Assert.AreEqual(0, Peek(ring.Queue));
        Assert.IsEmpty(_bursts);
        Assert.AreEqual(RingError.ZeroLength, ring.Queue.Error);
    }

    [TestMethod]
    public void A_table_of_which_nothing_is_known_asks_for_no_more_either()
    {
        using var ring = new Ring(8, 1 << 30);
        Assert.AreEqual(0, Peek(ring.Queue));
        CollectionAssert.AreEqual(new[] { Miss(Table) }, _bursts.Single());
    }

    [TestMethod]
    public void A_table_that_may_not_be_read_whole_is_refused_and_reported()
    {
        using var ring = new Ring(1024, Entries * 16);
        Tell(0);
        Tell(1);
        _iotlb.Update(new IotlbRange(IovaRange.Of(new Iova(Table + (2 * Page)), Page), _pages.Address, DmaAccess.Write));
        Assert.AreEqual(0, Peek(ring.Queue));
        CollectionAssert.AreEqual(new[] { new IotlbQuestion(new Iova(Table + (2 * Page)), DmaAccess.Read, true) }, _bursts[0]);
        Assert.AreEqual(RingError.AccessDenied, ring.Queue.Error);
    }

    [TestMethod]
    public void A_table_cut_into_many_pieces_keeps_the_device_no_longer_than_one_of_pages()
    {
        using var ring = new Ring(1024, Entries * 16);
        for (uint i = 0; i < Page; i++)
        {
            // No two neighbours belong together.
            _iotlb.Update(new IotlbRange(
                IovaRange.Of(new Iova(Table + i), 1), _pages.Address + (i % 2 * Page) + i, DmaAccess.Read));
        }

        // The first entry has no length.
        Assert.AreEqual(0, Peek(ring.Queue));
        Assert.AreEqual(RingError.ZeroLength, ring.Queue.Error);
        Assert.IsLessThan(256, _iotlb.Counters.Hits);
    }

    private static IotlbQuestion Miss(ulong page) => new(new Iova(page), DmaAccess.Read, false);

    private static void Set(Span<byte> place, ulong address, uint length, int flags, int next)
    {
        BinaryPrimitives.WriteUInt64LittleEndian(place, address);
        BinaryPrimitives.WriteUInt32LittleEndian(place[8..], length);
        BinaryPrimitives.WriteUInt16LittleEndian(place[12..], (ushort)flags);
        BinaryPrimitives.WriteUInt16LittleEndian(place[14..], (ushort)next);
    }

    private void Tell(uint page) => _iotlb.Update(
        new IotlbRange(IovaRange.Of(new Iova(Table + (page * Page)), Page), _pages.Address + (page * Page), DmaAccess.Read));

    private int Peek(DeviceQueue queue)
    {
        var chains = new DescriptorChain[1];
        var translator = new IotlbTranslator(_view);
        _view.Begin();
        int count = queue.Peek(ref translator, chains, new HostSegment[2048]);
        _view.Ask();
        _chain = chains[0];
        return count;
    }

    private sealed class Ring : IDisposable
    {
        private readonly GuardedMemory _descriptors;
        private readonly GuardedMemory _driver;
        private readonly GuardedMemory _device;

        public Ring(int size, uint tableBytes)
        {
            _descriptors = new GuardedMemory((int)RingAddresses.DescriptorBytes(size));
            _driver = new GuardedMemory((int)RingAddresses.DriverBytes(size, Features), alignment: 2);
            _device = new GuardedMemory((int)RingAddresses.DeviceBytes(size, Features), atStart: true);
            Set(_descriptors.Span, Table, tableBytes, virtio_ring.VRING_DESC_F_INDIRECT, 0);
            BinaryPrimitives.WriteUInt16LittleEndian(_driver.Span[2..], 1);
            Queue = DeviceQueue.Create(size, new RingAddresses(_descriptors.Address, _driver.Address, _device.Address), Features);
        }

        public DeviceQueue Queue { get; }

        public void Dispose()
        {
            _descriptors.Dispose();
            _driver.Dispose();
            _device.Dispose();
        }
    }
}
