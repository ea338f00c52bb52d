using Vfio.Linux;

namespace Vfio;

/// <summary>Pins memory in one container: plans, populates, maps, counts references and unmaps. It owns the container's IOVA space, so
/// there is one for a container, shared by its pools and by registered memory.</summary>
/// <remarks>Thread-safe. The kernel has one lock per container, so nothing is lost by one lock here; populating is outside of it.</remarks>
public sealed class Pinner
{
    private const ulong Page = 4096;

    private readonly Lock _lock = new();
    private readonly Type1Iommu _iommu;
    private readonly Sysfs _sysfs;
    private readonly LiveMappings _live = new();
    private readonly IovaAllocator _allocator;
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
            lock (_lock)
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
            lock (_lock)
            {
                return _live.Bytes;
            }
        }
    }

    /// <summary>The live mappings, by host address.</summary>
    /// <returns>A copy of the list.</returns>
    public IReadOnlyList<DmaMapping> Mappings()
    {
        lock (_lock)
        {
            return [.. _live.All().Select(m => m.Mapping)];
        }
    }

    /// <summary>What <see cref="Register"/> would do now. Touches nothing.</summary>
    /// <param name="ranges">The memory.</param>
    /// <param name="options">How; the default for null.</param>
    /// <returns>The plan.</returns>
    /// <exception cref="ArgumentException">A range or an option is not in whole pages, or gives no access.</exception>
    /// <exception cref="LinuxException">VFIO_IOMMU_GET_INFO failed.</exception>
    public PinPlan Plan(IReadOnlyList<PinRange> ranges, PinOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(ranges);
        lock (_lock)
        {
            PinLimits limits = Limits();
            return PinPlanner.Plan(ranges, limits, options ?? PinOptions.Default, _allocator.Clone(), _live);
        }
    }

    /// <summary>Pins memory: plans, populates it on several threads, and maps it with as few calls as can be.</summary>
    /// <param name="ranges">The memory, in any order. It must stay mapped in this process until it is released.</param>
    /// <param name="options">How; all or nothing for null.</param>
    /// <returns>What was pinned, to release by disposing it, and what was not.</returns>
    /// <exception cref="ArgumentException">A range or an option is not in whole pages, or gives no access.</exception>
    /// <exception cref="LinuxException">A limit stands against it, found before anything was touched; or, with
    /// <see cref="PinPolicy.AllOrNothing"/>, a page could not be pinned, and everything was undone.</exception>
    public RegisteredMemory Register(IReadOnlyList<PinRange> ranges, PinOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(ranges);
        options ??= PinOptions.Default;
        PinPlan first = Plan(ranges, options);
        Demand(first, options);
        // The lock is not held here, so the plan is made anew below; a page that others unmapped meanwhile fails there.
        if (options.Populate)
        {
            _ = Populator.Run(ranges, options.PopulateThreads, options.Progress);
        }

        lock (_lock)
        {
            PinPlan plan = PinPlanner.Plan(ranges, Limits(), options, _allocator, _live);
            var execution = new PinExecution(this, plan, options.Policy);
            return execution.Run(() => Demand(plan, options));
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
            throw new ArgumentException($"{page} for {access}: a page starts at a multiple of 4 KiB, and the device is given Read, Write or both");
        }

        lock (_lock)
        {
            if (_live.TryFind(page, out LiveMappings.Place place))
            {
                ref LiveMapping found = ref _live[place];
                if ((found.Access & access) != access)
                {
                    throw new PinFailure(HostRange.Of(page, Page), Errno.EEXIST, $"it is pinned already, and the device may only {found.Access} there",
                        "release it first, or ask for both from the start").Exception();
                }

                found.References++;
                return found.Iova + (page - found.Host);
            }

            FollowValidRanges();
            if (!_allocator.TryAllocate(Page, page, Page, out IovaRange iova))
            {
                throw new PinFailure(HostRange.Of(page, Page), Errno.ENOSPC, "no IOVA is free", "release memory that is pinned").Exception();
            }

            Errno errno = TryMap(new DmaMapping(HostRange.Of(page, Page), iova, access));
            if (errno != Errno.None)
            {
                _allocator.Release(iova);
                throw VfioFailure.Exception("VFIO_IOMMU_MAP_DMA", errno, Type1Iommu.Describe(iova, page, access));
            }

            return iova.First;
        }
    }

    /// <summary>Takes back one <see cref="PinPage"/>; the last one unmaps.</summary>
    /// <param name="page">The page's first byte.</param>
    /// <exception cref="InvalidOperationException">The page is not pinned.</exception>
    /// <exception cref="LinuxException">It could not be unmapped; it stays pinned.</exception>
    public void ReleasePage(HostAddress page)
    {
        lock (_lock)
        {
            ReleaseOne(page);
        }
    }

    /// <summary>One call of VFIO_IOMMU_MAP_DMA; a mapping that succeeds is entered with one reference. The lock is held.</summary>
    internal Errno TryMap(in DmaMapping mapping)
    {
        _mapCalls++;
        Errno errno = _iommu.TryMap(mapping.Iova, mapping.Host.First, mapping.Access);
        if (errno == Errno.None)
        {
            _live.Insert(new LiveMapping
            {
                Host = mapping.Host.First,
                Iova = mapping.Iova.First,
                Length = mapping.Host.Length,
                References = 1,
                Access = mapping.Access,
            });
        }

        return errno;
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
    internal void ReleaseOne(HostAddress address)
    {
        if (!_live.TryFind(address, out LiveMappings.Place place))
        {
            throw new InvalidOperationException($"{address} is not pinned");
        }

        ref LiveMapping mapping = ref _live[place];
        if (mapping.References > 1)
        {
            mapping.References--;
            return;
        }

        IovaRange iova = IovaRange.Of(mapping.Iova, mapping.Length);
        _unmapCalls++;
        _iommu.Unmap(iova);
        _live.Remove(place);
        _allocator.Release(iova);
    }

    /// <summary>Gives back IOVAs that a plan took and nothing was mapped at. The lock is held.</summary>
    internal void GiveBack(IovaRange range) => _allocator.Release(range);

    /// <summary>Runs a step with the lock held.</summary>
    internal void Locked(Action step)
    {
        lock (_lock)
        {
            step();
        }
    }

    private static void Demand(PinPlan plan, PinOptions options)
    {
        // Best effort runs up to the limits; all or nothing does not begin what cannot end.
        if (options.Policy == PinPolicy.AllOrNothing)
        {
            plan.ThrowIfImpossible("pinning");
            if (plan.Refused.Count > 0)
            {
                throw plan.Refused[0].Exception();
            }
        }
    }

    private PinLimits Limits()
    {
        _iommu.Refresh();
        FollowValidRanges();
        return PinLimits.Of(_iommu, _sysfs);
    }

    // A group that was attached since may have taken ranges away.
    private void FollowValidRanges()
    {
        IReadOnlyList<IovaRange> ranges = _iommu.ValidRanges;
        if (!ReferenceEquals(ranges, _validRanges))
        {
            if (!ranges.SequenceEqual(_validRanges))
            {
                _allocator.Update(ranges);
            }

            _validRanges = ranges;
        }
    }
}
