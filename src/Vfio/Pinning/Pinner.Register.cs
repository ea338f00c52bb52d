using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;
using Vfio.Linux;

namespace Vfio;

/// <content>Ranges of memory, which are planned, populated and mapped, or only referenced where they are pinned already.</content>
public sealed partial class Pinner
{
    /// <summary>What <see cref="Register(IReadOnlyList{PinRange}, PinOptions?)"/> would do now. Touches nothing.</summary>
    /// <param name="ranges">The memory.</param>
    /// <param name="options">How; the default for null.</param>
    /// <returns>The plan.</returns>
    /// <exception cref="ArgumentException">A range or an option is not in whole pages, or gives no access.</exception>
    /// <exception cref="LinuxException">VFIO_IOMMU_GET_INFO failed.</exception>
    public PinPlan Plan(IReadOnlyList<PinRange> ranges, PinOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(ranges);
        lock (Lock)
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
    /// <see cref="PinPolicy.AllOrNothing"/>, a page could not be pinned, and everything was undone. It names the pieces that could not be
    /// populated, too.</exception>
    public RegisteredMemory Register(IReadOnlyList<PinRange> ranges, PinOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(ranges);
        options ??= PinOptions.Default;
        // Pages that are pinned exist.
        return ranges.Count == 1 ? Register(ranges[0], options)
            : ReferenceAll(ranges, options) ?? (options.Populate ? RegisterPopulated(ranges, options) : RegisterNow(ranges, options));
    }

    /// <summary>Pins one range. Where none of it is pinned and it need not be populated, this is one call of the kernel and no plan:
    /// the kernel checks the limits itself, and a map that it refuses changes nothing. What stood against it is looked up then.</summary>
    /// <param name="range">The memory. It must stay mapped in this process until it is released.</param>
    /// <param name="options">How; all or nothing for null.</param>
    /// <returns>What was pinned, to release by disposing it, and what was not.</returns>
    /// <exception cref="ArgumentException">The range or an option is not in whole pages, or gives no access.</exception>
    /// <exception cref="LinuxException">As for several ranges.</exception>
    public RegisteredMemory Register(PinRange range, PinOptions? options = null)
    {
        options ??= PinOptions.Default;
        if (options.Populate)
        {
            return ReferenceAll([range], options) ?? RegisterPopulated([range], options);
        }

        lock (Lock)
        {
            return RegisterStraight(range, options);
        }
    }

    // One map of the whole range, if it needs nothing else. A method of its own: inside the lock's try block the compiler
    // keeps variables in memory. Nothing need be zeroed first, as all is assigned before it is read.
    [MethodImpl(MethodImplOptions.NoInlining)]
    [SkipLocalsInit]
    [SuppressMessage("Reliability", "CA2000", Justification = "where the map fails the object is forgotten: it tells of no mapping")]
    private RegisteredMemory RegisterStraight(in PinRange range, PinOptions options)
    {
        FollowValidRanges();
        HostRange host = range.Host;
        if (options.Grain != 0
            || options.At is not null
            || !_live.IsFree(host, out LiveMappings.Place place)
            || !PinPlanner.TryAllocate(host, range.Access, range.Backing, _iommu.PageSizes, _allocator, out Iova iova))
        {
            return RegisterByPlan(range, options);
        }

        // Before the kernel's call, as everything that needs memory.
        var registered = new RegisteredMemory(this, host, iova, range.Access);
        Errno answer = TryMap(host.First, iova, host.Length, range.Access, place);
        return answer == Errno.None ? registered : RegisterRefused(range, options, iova, answer);
    }

    // Where all of it is pinned and allows what is asked, and nothing else is asked: a reference more to each mapping, and no call.
    private RegisteredMemory? ReferenceAll(IReadOnlyList<PinRange> ranges, PinOptions options)
    {
        if (options.Grain != 0 || options.At is not null)
        {
            return null;
        }

        lock (Lock)
        {
            var used = new HashSet<DmaMapping>();
            foreach (PinRange range in ranges)
            {
                if (!PinPlanner.CanBePinned(range.Host, range.Access) || !TryFindPinned(range, used))
                {
                    return null;
                }
            }

            var registered = new RegisteredMemory(this, [.. used], []);
            foreach (DmaMapping mapping in used)
            {
                AddReference(mapping.Host.First);
            }

            return registered;
        }
    }

    private bool TryFindPinned(in PinRange range, HashSet<DmaMapping> used)
    {
        HostAddress next = range.Host.First;
        foreach (LiveMapping mapping in _live.Overlapping(range.Host))
        {
            if (mapping.Host > next || (mapping.Access & range.Access) != range.Access)
            {
                return false;
            }

            used.Add(mapping.Mapping);
            if (mapping.HostLast >= range.Host.Last)
            {
                return true;
            }

            next = mapping.HostLast + 1;
        }

        return false;
    }

    // Apart, as what follows it, so that the straight way is compiled in one piece.
    [MethodImpl(MethodImplOptions.NoInlining)]
    private RegisteredMemory RegisterByPlan(in PinRange range, PinOptions options) =>
        ReferenceAll([range], options) ?? RegisterByPlan([range], options, default, Errno.None);

    // The kernel refused the whole range at this IOVA, which the plan may take again: it need not be asked that once more.
    [MethodImpl(MethodImplOptions.NoInlining)]
    private RegisteredMemory RegisterRefused(in PinRange range, PinOptions options, Iova iova, Errno answer)
    {
        IovaRange refused = IovaRange.Of(iova, range.Host.Length);
        _allocator.Release(refused);
        return RegisterByPlan([range], options, new DmaMapping(range.Host, refused, range.Access), answer);
    }

    private RegisteredMemory RegisterByPlan(IReadOnlyList<PinRange> ranges, PinOptions options, in DmaMapping asked, Errno answer)
    {
        PinPlan plan = PinPlanner.Plan(ranges, Limits(), options, _allocator, _live);
        return new PinExecution(this, plan, options.Policy, asked, answer).Run(() => Demand(plan, options));
    }

    private RegisteredMemory RegisterNow(IReadOnlyList<PinRange> ranges, PinOptions options)
    {
        lock (Lock)
        {
            return ranges.Count == 1 ? RegisterStraight(ranges[0], options) : RegisterByPlan(ranges, options, default, Errno.None);
        }
    }

    // The limits first, since populating touches the memory. The lock is not held meanwhile, so what is mapped is decided afterwards, and
    // a page that others unmapped in between fails there. So does one that could not be populated, which is the page's cause then.
    private RegisteredMemory RegisterPopulated(IReadOnlyList<PinRange> ranges, PinOptions options)
    {
        Demand(Plan(ranges, options), options);
        IReadOnlyList<PopulateFailure> failures = Populator.Run(ranges, options.PopulateThreads, options.Progress);
        try
        {
            RegisteredMemory registered = RegisterNow(ranges, options);
            registered.PopulateFailures = failures;
            return registered;
        }
        catch (LinuxException e) when (failures.Count > 0)
        {
            string pieces = string.Join("; ", failures.Take(4)) + (failures.Count > 4 ? $"; and {failures.Count - 4} more" : string.Empty);
            throw new LinuxException(e.Call, e.Errno, $"{e.Detail}; populating had failed before: {pieces}", e.Cause, e.Cure);
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
}
