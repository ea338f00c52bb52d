using Vfio.Linux;
using Vfio.VhostUser;
using Vfio.Virtio;

namespace Vfio.Testing.VhostUser;

/// <summary>A guest with one network device behind an IOMMU, or without: its memory, its IOMMU, the front-end, and a receive and
/// a transmit ring. It chooses where its buffers are for the device.</summary>
public sealed class IotlbGuest : IDisposable
{
    /// <summary>Where the guest has its memory.</summary>
    public const ulong GuestBase = 0x4000_0000;

    /// <summary>Where the device finds the rings; above all memory, so that no IOVA is an address of anything else.</summary>
    public const ulong RingBase = 0x70_0000_0000;

    /// <summary>Bytes at the start of memory that are the rings'.</summary>
    public const ulong RingBytes = 4 << 20;

    private readonly EventFd _kick = new();
    private readonly Func<FrontendRing, FrontendRing>? _shape;
    private readonly List<FrontendRing> _described = [];
    private readonly Thread? _server;
    private readonly StitchedMemory? _rings;
    private readonly FrontendRegion? _buffers;

    /// <summary>Connects, shares memory and starts both rings.</summary>
    /// <param name="socket">To the back-end.</param>
    /// <param name="features">Beside VERSION_1: the layout, EVENT_IDX and so on.</param>
    /// <param name="memory">Bytes for buffers, a multiple of 2 MiB.</param>
    /// <param name="ringSize">Entries of each ring.</param>
    /// <param name="hasIommu">Whether the device's addresses are IOVAs.</param>
    /// <param name="servesMisses">Whether a thread of this object answers misses and counts calls; else the owner does.</param>
    /// <param name="hugePageSize">The pages that memory is made of.</param>
    /// <param name="scattersRings">Whether the rings' pages are neighbours for the device only.</param>
    /// <param name="separatesBuffers">Whether buffers have a region of their own.</param>
    /// <param name="canShrink">Whether its memory is going to be taken away from under the back-end.</param>
    /// <param name="more">Protocol features that are wanted beside the usual ones.</param>
    /// <param name="shape">Changes what the back-end is told of a ring; null: each has a kick, the same one, and no call.</param>
    public IotlbGuest(
        UnixSocket socket,
        VirtioFeatures features,
        ulong memory,
        int ringSize,
        bool hasIommu,
        bool servesMisses = true,
        ulong hugePageSize = 0,
        bool scattersRings = false,
        bool canShrink = false,
        bool separatesBuffers = false,
        ProtocolFeatures more = ProtocolFeatures.None,
        Func<FrontendRing, FrontendRing>? shape = null)
    {
        _shape = shape;
        Name = $"iotlb-guest-{Guid.NewGuid():N}"[..28];
        Region = new FrontendRegion(
            Name, new GuestPhysicalAddress(GuestBase), RingBytes + (separatesBuffers ? 0 : memory), hugePageSize, canShrink);
        _buffers = separatesBuffers
            ? new FrontendRegion(BuffersName, new GuestPhysicalAddress(GuestBase + RingBytes), memory, hugePageSize, canShrink) : null;
        Iommu = hasIommu ? new FrontendIommu() : null;
        Frontend = new VhostUserFrontend(socket, features, Iommu, more);
        if (Frontend.BackendRequests is not null && servesMisses)
        {
            _server = new Thread(Serve) { Name = "front-end", IsBackground = true };
            _server.Start();
        }

        for (ulong offset = 0; Iommu is not null && offset < RingBytes; offset += 4096)
        {
            ulong place = scattersRings ? RingBytes - 4096 - offset : offset;
            Iommu.Map(IovaRange.Of(new Iova(RingBase + offset), 4096), Region.Frontend + place, DmaAccess.ReadWrite);
        }

        if (scattersRings)
        {
            _rings = StitchedMemory.Make([.. Enumerable.Range(0, (int)(RingBytes / 4096))
                .Select(i => ((nint)(Region.Host.Value + RingBytes - 4096 - ((ulong)i * 4096)), 4096ul))]);
        }

        ShareMemory();
        Receive = Ring(0, ringSize, 0);
        Transmit = Ring(1, ringSize, RingBytes / 2);
    }

    /// <summary>The name of the memory file.</summary>
    public string Name { get; }

    /// <summary>The name of the memory file of buffers, where they have one of their own.</summary>
    public string BuffersName => $"{Name}-b";

    /// <summary>The guest's memory.</summary>
    public FrontendRegion Region { get; }

    /// <summary>The memory of buffers, where they have a region of their own.</summary>
    public FrontendRegion Buffers => _buffers ?? throw new InvalidOperationException("rings and buffers have one region");

    /// <summary>The guest's IOMMU, or null.</summary>
    public FrontendIommu? Iommu { get; }

    /// <summary>The front-end.</summary>
    public VhostUserFrontend Frontend { get; }

    /// <summary>Ring 0.</summary>
    public DriverQueue Receive { get; private set; }

    /// <summary>Ring 1.</summary>
    public DriverQueue Transmit { get; private set; }

    /// <summary>What the back-end was told of the rings.</summary>
    public IReadOnlyList<FrontendRing> Described => _described;

    /// <summary>What went wrong while misses were served, or null.</summary>
    public Exception? ServerFailure { get; private set; }

    /// <summary>Memory for buffers, as the device finds it where no IOMMU stands between.</summary>
    /// <param name="offset">From the start of the buffers' memory.</param>
    /// <param name="length">Bytes.</param>
    public PinnedBuffer Plain(ulong offset, int length) =>
        At(new Iova(GuestBase + RingBytes + offset), offset, length);

    /// <summary>The same memory, at an IOVA.</summary>
    public PinnedBuffer At(Iova iova, ulong offset, int length) =>
        new(iova, _buffers is null ? Region.Host + (RingBytes + offset) : _buffers.Host + offset, length);

    /// <summary>Lets the device use a page of the buffers' memory.</summary>
    /// <param name="page">The IOVAs: 4 KiB, 2 MiB or 1 GiB.</param>
    /// <param name="offset">From the start of the buffers' memory.</param>
    /// <param name="access">How.</param>
    public void Map(IovaRange page, ulong offset, DmaAccess access) => Iommu!.Map(page, AddressOf(offset), access);

    /// <summary>The front-end's address of the buffers' memory.</summary>
    public FrontendAddress AddressOf(ulong offset) =>
        _buffers is null ? Region.Frontend + (RingBytes + offset) : _buffers.Frontend + offset;

    /// <summary>Shares all memory, in place of what was shared before.</summary>
    public void ShareMemory()
    {
        if (_buffers is null)
        {
            Frontend.SetMemory(Region);
        }
        else
        {
            Frontend.SetMemory(Region, _buffers);
        }
    }

    /// <summary>Starts a ring again where it was stopped.</summary>
    /// <param name="index">0 or 1.</param>
    /// <param name="position">What <see cref="VhostUserFrontend.StopRing"/> said.</param>
    public void ResumeRing(int index, uint position) => Frontend.StartRing(_described[index] with { Position = position });

    /// <summary>Tells the back-end that there is something.</summary>
    public void Kick()
    {
        foreach (FrontendRing ring in _described)
        {
            if (ring.Kick is null)
            {
                Frontend.Kick(ring.Index);
            }
        }

        _kick.Signal();
    }

    public void Dispose()
    {
        Frontend.Close();
        _server?.Join();
        Frontend.Dispose();
        _rings?.Dispose();
        Region.Dispose();
        _buffers?.Dispose();
        _kick.Dispose();
    }

    private DriverQueue Ring(int index, int size, ulong offset)
    {
        ulong iova = Iommu is null ? GuestBase + offset : RingBase + offset;
        int bytes = DriverQueue.BytesFor(size, Frontend.Features, 0);
        var queue = DriverQueue.Create(
            size, Frontend.Features, new PinnedBuffer(
                new Iova(iova), _rings is null ? Region.Host + offset : new HostAddress((ulong)_rings.Address) + offset, bytes));
        // Without an IOMMU ring addresses are the front-end's own; descriptors carry the guest's.
        ulong shift = Iommu is null ? unchecked(Region.Host.Value - GuestBase) : 0;
        FrontendAddress Address(BusAddress address) => new(unchecked(address.Value + shift));
        var ring = new FrontendRing(
            index, size, Address(queue.DescriptorArea), Address(queue.DriverArea), Address(queue.DeviceArea), Frontend.Features,
            _kick, null);
        _described.Add(_shape is null ? ring : _shape(ring));
        Frontend.StartRing(_described[^1]);
        return queue;
    }

    private void Serve()
    {
        try
        {
            while (Frontend.ServeOne())
            {
            }
        }
        catch (Exception e) when (e is VhostUserProtocolException or LinuxException)
        {
            ServerFailure = e;
        }
    }
}
