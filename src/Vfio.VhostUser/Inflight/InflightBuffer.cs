using System.Runtime.CompilerServices;
using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.VhostUser;

/// <summary>The buffer in which requests in flight are recorded, so that a back-end that takes over from a dead one finds them
/// (vhost-user specification, "Inflight I/O tracking"). The front-end keeps it; one region a ring.</summary>
internal sealed class InflightBuffer : IDisposable
{
    // As DPDK and libvhost-user do, so that either can take over from us and we from them.
    private const ulong RegionAlignment = 64;

    private readonly GuardedMapping _mapping;
    private readonly int _queues;
    private readonly int _queueSize;
    private readonly bool _packed;

    private InflightBuffer(GuardedMapping mapping, InflightDescription description, bool packed)
    {
        _mapping = mapping;
        _queues = description.QueueCount;
        _queueSize = description.QueueSize;
        _packed = packed;
    }

    /// <summary>Makes the file for so many rings of such a size, all zero: a version of 0 says that nothing is recorded.</summary>
    public static FileDescriptor Create(ref InflightDescription description, bool packed, int mostQueues)
    {
        if (description.QueueCount == 0 || description.QueueCount > mostQueues
            || description.QueueSize == 0 || description.QueueSize > RingAddresses.MaxSize)
        {
            throw new VhostUserProtocolException(
                $"no inflight buffer for {description.QueueCount} rings of {description.QueueSize} entries; there are {mostQueues} rings");
        }

        ulong length = description.QueueCount * RegionBytes(description.QueueSize, packed);
        description.MmapSize = (length + 4095) & ~4095ul;
        description.MmapOffset = 0;
        return MemoryFile.Create("vfiopin-inflight", description.MmapSize);
    }

    /// <summary>Maps what the front-end gives back, after checking it against the file itself.</summary>
    public static InflightBuffer Map(FileDescriptor file, InflightDescription description, bool packed, PeerMappings? owner = null)
    {
        SharedFile backing = SharedFile.Of(file);
        ulong needed = description.QueueCount * RegionBytes(description.QueueSize, packed);
        if (!backing.IsMemory || description.QueueCount == 0 || description.QueueSize is 0 or > RingAddresses.MaxSize
            || description.MmapSize < needed
            || description.MmapOffset % sizeof(ulong) != 0
            || unchecked(description.MmapOffset + description.MmapSize) < description.MmapSize
            || description.MmapOffset + description.MmapSize > backing.Size)
        {
            throw new VhostUserProtocolException(
                $"inflight buffer of {description.MmapSize} bytes at offset {new FileOffset(description.MmapOffset)} for " +
                $"{description.QueueCount} rings of {description.QueueSize} entries: for none, too small, or its file is");
        }

        return new InflightBuffer(
            GuardedMapping.Map(file, new FileRange(description.MmapOffset, needed), backing.PageSize, owner), description, packed);
    }

    /// <summary>The record of one ring, or null where the buffer has no region for it.</summary>
    public InflightRecord? RecordFor(int index, int size, bool packed)
    {
        if (index >= _queues || size != _queueSize || packed != _packed)
        {
            return null;
        }

        ulong region = (ulong)_mapping.Address + ((ulong)index * RegionBytes(_queueSize, _packed));
        return packed ? new PackedInflight(new HostAddress(region), size) : new SplitInflight(new HostAddress(region), size);
    }

    public void Dispose() => _mapping.Dispose();

    private static ulong RegionBytes(int queueSize, bool packed)
    {
        int bytes = packed
            ? Unsafe.SizeOf<PackedInflight.Header>() + (queueSize * Unsafe.SizeOf<PackedInflight.Entry>())
            : Unsafe.SizeOf<SplitInflight.Header>() + (queueSize * Unsafe.SizeOf<SplitInflight.Entry>());
        return ((ulong)bytes + RegionAlignment - 1) & ~(RegionAlignment - 1);
    }
}
