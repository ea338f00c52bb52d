using Vfio.Linux;
using Vfio.Testing;

namespace Vfio.Virtio.Tests;

/// <summary>Both sides of one queue over plain memory with guard pages; the device sees it at other addresses than we do.</summary>
internal sealed class RingPair : IDisposable
{
    public const ulong RingBus = 0x40_0000_0000;
    public const ulong DataBus = 0x7_0000_0000;

    private const int Page = 4096;

    private readonly ScatteredPages? _pages;

    public RingPair(
        int size, VirtioFeatures features, int dataBytes = 65536, int indirectEntries = 8, bool scattered = false, BufferUse use = BufferUse.Both)
    {
        Features = features;
        int bytes = DriverQueue.BytesFor(size, features, indirectEntries);
        _pages = scattered ? new ScatteredPages((bytes + Page - 1) / Page) : null;
        Ring = new GuardedMemory(bytes, alignment: 128);
        Data = new GuardedMemory(dataBytes);
        HostAddress ring = _pages?.Together ?? Ring.Address;
        Driver = DriverQueue.Create(size, features, new PinnedBuffer(new Iova(RingBus), ring, bytes), indirectEntries);
        Device = DeviceQueue.Create(
            size,
            _pages is null ? Driver.Addresses : RingAddresses.Scattered(
                _pages.Area(Driver.DescriptorArea, RingAddresses.DescriptorBytes(size)),
                _pages.Area(Driver.DriverArea, RingAddresses.DriverBytes(size, features)),
                _pages.Area(Driver.DeviceArea, RingAddresses.DeviceBytes(size, features))),
            features,
            use: use);
        Translator = new TwoPartTranslator(
            new PlainTranslator(RingBus, ring, (ulong)bytes), new PlainTranslator(DataBus, Data.Address, (ulong)dataBytes));
    }

    public VirtioFeatures Features { get; }

    public GuardedMemory Ring { get; }

    public GuardedMemory Data { get; }

    public DriverQueue Driver { get; }

    public DeviceQueue Device { get; }

    public TwoPartTranslator Translator;

    public static IEnumerable<VirtioFeatures> AllFeatures
    {
        get
        {
            VirtioFeatures[] bits =
                [VirtioFeatures.RingPacked, VirtioFeatures.RingEventIdx, VirtioFeatures.RingIndirectDesc, VirtioFeatures.InOrder];
            for (int mask = 0; mask < 1 << bits.Length; mask++)
            {
                VirtioFeatures features = VirtioFeatures.Version1;
                for (int i = 0; i < bits.Length; i++)
                {
                    features |= (mask & (1 << i)) != 0 ? bits[i] : VirtioFeatures.None;
                }

                yield return features;
            }
        }
    }

    public DmaSegment Segment(int offset, int length, DeviceAccess access) =>
        new(new PinnedBuffer(new Iova(DataBus + (ulong)offset), Data.Address + (ulong)offset, length), access);

    public void Dispose()
    {
        Ring.Dispose();
        Data.Dispose();
        _pages?.Dispose();
    }

    /// <summary>Pages in an order of their own, and a view of them in which they are neighbours.</summary>
    private sealed class ScatteredPages : IDisposable
    {
        private readonly FileDescriptor _file;
        private readonly MappedMemory _mapping;
        private readonly StitchedMemory _view;
        private readonly int _count;

        public ScatteredPages(int count)
        {
            _count = count;
            _file = MemoryFile.Create("ring", (ulong)count * Page);
            _mapping = MappedMemory.Map(_file, 0, (ulong)count * Page, writable: true);
            _view = StitchedMemory.Make([.. Enumerable.Range(0, count).Select(i => ((nint)At(i).Value, (ulong)Page))]);
        }

        public HostAddress Together => new((ulong)_view.Address);

        public RingArea Area(BusAddress start, uint length)
        {
            var pieces = new List<(HostAddress, ulong)>();
            for (ulong place = start.Value - RingBus, end = place + length; place < end;)
            {
                ulong piece = Math.Min(Page - (place % Page), end - place);
                pieces.Add((At((int)(place / Page)) + (place % Page), piece));
                place += piece;
            }

            return RingArea.TryOf(start, pieces.ToArray()) ?? throw new InvalidOperationException("the pieces are not pages");
        }

        public void Dispose()
        {
            _view.Dispose();
            _mapping.Dispose();
            _file.Dispose();
        }

        // Backwards: no two are neighbours.
        private HostAddress At(int page) => new((ulong)_mapping.Address + (ulong)((_count - 1 - page) * Page));
    }
}

/// <summary>Ring memory (for indirect tables) and data memory, nothing between.</summary>
internal struct TwoPartTranslator(PlainTranslator ring, PlainTranslator data) : ITranslator
{
    public PlainTranslator Ring = ring;
    public PlainTranslator Data = data;

    public TranslationStatus Translate(
        BusAddress address, uint length, DeviceAccess access, out HostAddress host, out uint usable) =>
        address.Value >= RingPair.RingBus
            ? Ring.Translate(address, length, access, out host, out usable)
            : Data.Translate(address, length, access, out host, out usable);

    public bool TryTranslate(BusAddress address, uint length, DeviceAccess access, out HostAddress host) =>
        address.Value >= RingPair.RingBus
            ? Ring.TryTranslate(address, length, access, out host) : Data.TryTranslate(address, length, access, out host);

    public void CountAtHand(int times) => Data.CountAtHand(times);
}
