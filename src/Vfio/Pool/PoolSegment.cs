using Vfio.Linux;

namespace Vfio;

/// <summary>A piece of a pool: memory that was made and pinned in one go, contiguous for this process and for the device.</summary>
public sealed class PoolSegment
{
    private readonly PoolMemory _memory;

    internal PoolSegment(PoolMemory memory, MemoryBacking backing, PoolOffset offset, PoolPlacement? placement)
    {
        _memory = memory;
        Backing = backing;
        Offset = offset;
        Placement = placement;
        InService = memory.Length;
        Free.Give(0, memory.Length - 1);
    }

    /// <summary>Where it starts in the pool.</summary>
    public PoolOffset Offset { get; }

    /// <summary>Bytes.</summary>
    public ulong Length => _memory.Length;

    /// <summary>Where this process finds it.</summary>
    public HostAddress Address => _memory.Address;

    /// <summary>Where the device finds it; with no device, a place that no IOMMU has (see <see cref="PinnedPool"/>).</summary>
    public Iova Iova { get; internal set; }

    /// <summary>The pages that it was made of.</summary>
    public MemoryBacking Backing { get; }

    /// <summary>What it really got, where the kernel tells.</summary>
    public PoolPlacement? Placement { get; }

    /// <summary>Why the wanted NUMA node could not even be asked for; <see cref="Errno.None"/> when it was.</summary>
    public Errno NodeRefused => _memory.NodeRefused;

    /// <summary>The memfd, to share the memory with another process: the segment starts at its offset 0. Null for memory that has none:
    /// transparent huge pages, unless <c>/sys/kernel/mm/transparent_hugepage/shmem_enabled</c> allows them for a memfd.</summary>
    public FileDescriptor? File => _memory.File;

    /// <summary>Its entries of the IOMMU; none with no device.</summary>
    public IReadOnlyList<DmaMapping> Mappings => Registered?.Mappings ?? [];

    /// <summary>What is neither rented, nor free in a stack, nor allocated; offsets in the segment. The pool's lock covers it.</summary>
    internal FreeRanges Free { get; } = new();

    internal RegisteredMemory? Registered { get; set; }

    internal PoolMemory Memory => _memory;

    /// <summary>Bytes from the start that may be lent out; what is beyond is being unpinned. The pool's lock covers it.</summary>
    internal ulong InService { get; private set; }

    internal BufferSlots? Slots { get; set; }

    /// <summary>How much of it stays when the pool keeps so many bytes.</summary>
    internal ulong StayOf(ulong keep) => Offset.Value >= keep ? 0 : Math.Min(Length, keep - Offset.Value);

    /// <summary>Takes what lies behind an offset out of service. All of it is free.</summary>
    internal void Withdraw(ulong from)
    {
        if (from < InService)
        {
            Free.TryTakeExactly(from, InService - 1);
            InService = from;
        }
    }
}
