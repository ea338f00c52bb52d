using System.Runtime.CompilerServices;
using Vfio.Linux;

namespace Vfio;

/// <summary>Pins memory in one container: plans, populates, maps, counts references and unmaps. It owns the container's IOVA space, so
/// there is one for a container, shared by its pools and by registered memory.</summary>
/// <remarks>Thread-safe. The kernel has one lock per container, so nothing is lost by one lock here; populating is outside of it.</remarks>
public sealed partial class Pinner
{
    private const ulong Page = 4096;

    private readonly Type1Iommu _iommu;
    private readonly Sysfs _sysfs;
    private readonly LiveMappings _live = new();
    private readonly IovaAllocator _allocator;
    private readonly List<PoolMemory> _kept = [];
    private IReadOnlyList<IovaRange> _validRanges;
    private long _mapCalls;
    private long _unmapCalls;

    /// <summary>Makes the pinner of a container.</summary>
    /// <param name="iommu">The container's IOMMU.</param>
    /// <param name="sysfs">Where <c>/proc</c> and <c>/sys</c> are; the real ones by default.</param>
    public Pinner(Type1Iommu iommu, Sysfs? sysfs = null)
    {
        ArgumentNullException.ThrowIfNull(iommu);
        _iommu = iommu;
        _sysfs = sysfs ?? new Sysfs();
        _validRanges = iommu.ValidRanges;
        _allocator = new IovaAllocator(_validRanges);
        KernelTracking = new KernelDirtyTracking(iommu);
    }

    /// <summary>The IOMMU that it maps in.</summary>
    public Type1Iommu Iommu => _iommu;

    /// <summary>Calls of VFIO_IOMMU_MAP_DMA made so far, failed ones included.</summary>
    public long MapCalls => Interlocked.Read(ref _mapCalls);

    /// <summary>Calls of VFIO_IOMMU_UNMAP_DMA made so far.</summary>
    public long UnmapCalls => Interlocked.Read(ref _unmapCalls);

    /// <summary>Entries of the container that are in use by this pinner.</summary>
    public int EntriesUsed
    {
        get
        {
            lock (Lock)
            {
                return _live.Count;
            }
        }
    }

    /// <summary>Bytes that this pinner has pinned.</summary>
    public ulong PinnedBytes
    {
        get
        {
            lock (Lock)
            {
                return _live.Bytes;
            }
        }
    }

    /// <summary>Bytes of pools that are no more and could not be unpinned. They stay mapped in this process as long as it runs: what
    /// is in <see cref="PinnedBytes"/> of them is in the devices' reach, and their addresses must not come to name other memory.</summary>
    public ulong KeptBytes
    {
        get
        {
            lock (Lock)
            {
                ulong sum = 0;
                _kept.ForEach(m => sum += m.Length);
                return sum;
            }
        }
    }

    /// <summary>The lock, for those whose steps belong together.</summary>
    internal Lock Lock { get; } = new();

    /// <summary>The kernel's dirty tracking of the container.</summary>
    internal KernelDirtyTracking KernelTracking { get; }

    /// <summary>The live mappings, by host address.</summary>
    /// <returns>A copy of the list.</returns>
    public IReadOnlyList<DmaMapping> Mappings()
    {
        lock (Lock)
        {
            return [.. _live.All().Select(m => m.Mapping)];
        }
    }

    /// <summary>Pins one page: the straight way, with no plan and no allocation. A page that is pinned gets a reference.</summary>
    /// <param name="page">The page's first byte, a multiple of 4 KiB.</param>
    /// <param name="access">What the device may do.</param>
    /// <returns>Where the device finds it.</returns>
    /// <exception cref="LinuxException">It could not be pinned.</exception>
    public Iova PinPage(HostAddress page, DmaAccess access)
    {
        if (!page.IsAligned(Page) || access is DmaAccess.None or > DmaAccess.ReadWrite)
        {
            throw NoPage(page, access);
        }

        lock (Lock)
        {
            if (_live.TryFind(page, out LiveMappings.Place place))
            {
                ref LiveMapping found = ref _live[place];
                if ((found.Access & access) != access)
                {
                    throw Pinned(page, found.Access).Exception();
                }

                found.References++;
                return found.Iova + (page - found.Host);
            }

            FollowValidRanges();
            if (!_allocator.TryTake(Page, page, Page, out Iova iova))
            {
                throw NoIova(page).Exception();
            }

            Errno errno = TryMap(page, iova, Page, access, place);
            return errno == Errno.None ? iova : throw Refused(page, iova, access, errno);
        }
    }

    /// <summary>Takes back one <see cref="PinPage"/>; the last one unmaps. Allocates only where the kernel tracks dirty pages.</summary>
    /// <param name="page">The page's first byte.</param>
    /// <returns>What was unmapped and what the kernel knew of it; null where it is pinned by others still, or the kernel did not track.</returns>
    /// <exception cref="InvalidOperationException">The page is not pinned.</exception>
    /// <exception cref="LinuxException">It could not be unmapped; it stays pinned.</exception>
    public UnmappedMemory? ReleasePage(HostAddress page)
    {
        lock (Lock)
        {
            return ReleaseOne(page, wantsDirty: true);
        }
    }

    /// <summary>One call of VFIO_IOMMU_MAP_DMA; a mapping that succeeds is entered with one reference. The lock is held.</summary>
    internal Errno TryMap(in DmaMapping mapping)
    {
        _ = _live.IsFree(mapping.Host, out LiveMappings.Place place);
        return TryMap(mapping.Host.First, mapping.Iova.First, mapping.Host.Length, mapping.Access, place);
    }

    /// <summary>Adds a reference to the mapping that starts there. The lock is held.</summary>
    internal void AddReference(HostAddress first)
    {
        if (!_live.TryFind(first, out LiveMappings.Place place))
        {
            throw new InvalidOperationException($"{first} is not pinned");
        }

        _live[place].References++;
    }

    /// <summary>Drops a reference; the last one unmaps. Nothing changes when that fails. The lock is held.</summary>
    /// <param name="address">In the mapping.</param>
    /// <param name="wantsDirty">Whether what the kernel knows of its pages is wanted, where it tracks them.</param>
    /// <returns>What was unmapped, where that is wanted and the kernel tracked.</returns>
    internal UnmappedMemory? ReleaseOne(HostAddress address, bool wantsDirty)
    {
        if (!_live.TryFind(address, out LiveMappings.Place place))
        {
            throw new InvalidOperationException($"{address} is not pinned");
        }

        ref LiveMapping mapping = ref _live[place];
        if (mapping.References > 1)
        {
            mapping.References--;
            return null;
        }

        // Room first: an entry that the kernel has unmapped must not stay behind for want of memory.
        _allocator.Reserve();
        IovaRange iova = IovaRange.Of(mapping.Iova, mapping.Length);
        UnmappedMemory? unmapped = null;
        if (wantsDirty && _iommu.IsTrackingDirty)
        {
            unmapped = UnmapWithDirty(mapping.Mapping);
        }
        else
        {
            _unmapCalls++;
            _iommu.Unmap(iova);
        }

        _live.Remove(place);
        _allocator.Release(iova);
        return unmapped;
    }

    /// <summary>Frees memory that was to be a pool's, unless part of it is pinned still: then it is kept for good.</summary>
    /// <returns>Whether it is free.</returns>
    internal bool FreeOrKeep(PoolMemory memory)
    {
        lock (Lock)
        {
            if (!_live.IsFree(HostRange.Of(memory.Address, memory.Length), out _))
            {
                _kept.Add(memory);
                return false;
            }
        }

        memory.Dispose();
        return true;
    }

    /// <summary>The first mapping in a range that more than one has pinned, or null.</summary>
    internal HostRange? FirstShared(HostRange range)
    {
        lock (Lock)
        {
            foreach (LiveMapping mapping in _live.Overlapping(range))
            {
                if (mapping.References > 1)
                {
                    return HostRange.Of(mapping.Host, mapping.Length);
                }
            }
        }

        return null;
    }

    /// <summary>Gives back IOVAs that a plan took and nothing was mapped at. The lock is held.</summary>
    internal void GiveBack(IovaRange range) => _allocator.Release(range);

    // Apart, so that the usual way is short.
    [MethodImpl(MethodImplOptions.NoInlining)]
    private UnmappedMemory? UnmapWithDirty(DmaMapping mapping)
    {
        ulong pageSize = _iommu.DirtyTracking?.PageSize ?? DirtyBitmap.PageSize;
        // All memory before the call, as everywhere.
        ulong[] words = new ulong[DirtyBitmap.WordsFor(mapping.Host.Length)];
        ulong[] kernel = new ulong[(mapping.Iova.Length / pageSize + 63) / 64];
        var unmapped = new UnmappedMemory(
            mapping, new DirtyAnswer(mapping.Host.Length, words, DirtyPrecision.Superset, DirtySources.Kernel, inFlightPages: 0));
        _unmapCalls++;
        try
        {
            _iommu.UnmapWithDirtyBitmap(mapping.Iova, kernel);
        }
        catch (LinuxException e) when (e.Errno == Errno.EINVAL)
        {
            // Nothing was unmapped: tracking was stopped meanwhile, here or by another who has the container, and the kernel knows nothing; or
            // the mapping is longer than a bitmap may be (vfio_iommu_type1.c: DIRTY_BITMAP_SIZE_MAX). It must not stay for that.
            _unmapCalls++;
            _iommu.Unmap(mapping.Iova);
            if (!_iommu.IsTrackingDirty)
            {
                return null;
            }

            BitRange.Set(words, 0, mapping.Host.Length / DirtyBitmap.PageSize);
            return unmapped;
        }

        KernelBits.Add(kernel, pageSize / DirtyBitmap.PageSize, words, 0);
        return unmapped;
    }

    // What PinPage throws is made outside of it, so that the straight way is short.
    private static ArgumentException NoPage(HostAddress page, DmaAccess access) =>
        new($"{page} for {access}: a page starts at a multiple of 4 KiB, and the device is given Read, Write or both");

    private static PinFailure Pinned(HostAddress page, DmaAccess access) => new(
        HostRange.Of(page, Page), Errno.EEXIST, $"it is pinned already, and the device may only {access} there",
        "release it first, or ask for both from the start");

    private static PinFailure NoIova(HostAddress page) =>
        new(HostRange.Of(page, Page), Errno.ENOSPC, "no IOVA is free", "release memory that is pinned");

    private LinuxException Refused(HostAddress page, Iova iova, DmaAccess access, Errno errno)
    {
        IovaRange range = IovaRange.Of(iova, Page);
        _allocator.Release(range);
        return VfioFailures.Exception("VFIO_IOMMU_MAP_DMA", errno, Type1Iommu.Describe(range, page, access));
    }

    [SkipLocalsInit]
    private Errno TryMap(HostAddress host, Iova iova, ulong length, DmaAccess access, LiveMappings.Place place)
    {
        // Noted down first: what the kernel has mapped must not be lost because there is no memory for it. Nothing that throws comes between.
        _iommu.DemandOpen();
        _live.InsertAfter(place, new LiveMapping { Host = host, Iova = iova, Length = length, References = 1, Access = access });
        _mapCalls++;
        Errno errno = _iommu.TryMap(iova, length, host, access);
        if (errno != Errno.None)
        {
            StrikeOut(host);
        }

        return errno;
    }

    // Of an entry that was just made. Looked up again, so that the usual way need not keep its place.
    private void StrikeOut(HostAddress first)
    {
        _ = _live.TryFind(first, out LiveMappings.Place place);
        _live.Remove(place);
    }

    private PinLimits Limits()
    {
        _iommu.Refresh();
        FollowValidRanges();
        return PinLimits.Of(_iommu, _sysfs);
    }

    // A group that was attached since may have taken ranges away.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private void FollowValidRanges()
    {
        if (!ReferenceEquals(_iommu.ValidRanges, _validRanges))
        {
            TakeOverValidRanges();
        }
    }

    private void TakeOverValidRanges()
    {
        IReadOnlyList<IovaRange> ranges = _iommu.ValidRanges;
        if (!ranges.SequenceEqual(_validRanges))
        {
            _allocator.Update(ranges);
        }

        _validRanges = ranges;
    }
}
