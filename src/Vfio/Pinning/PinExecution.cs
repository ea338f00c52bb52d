using Vfio.Linux;

namespace Vfio;

/// <summary>Carries out one plan: maps its runs, halves those that fail until what fails is single pages, and undoes everything when the
/// policy is all or nothing. Runs with the pinner's lock held.</summary>
/// <remarks>
/// <para>A page that fails costs at most 2·log2(pages)+2 calls: each level of halving tries the lower half, and the upper half only when the
/// lower one failed too; where the lower half went in, the upper one is known to hold what failed and is halved at once.</para>
/// <para>The halves that went in stay as they are. Joining them again would cost calls and a moment without the mapping, and would save
/// no more than log2(pages) entries for a bad page.</para>
/// </remarks>
/// <param name="pinner">The pinner.</param>
/// <param name="plan">The plan.</param>
/// <param name="policy">What happens when some pages cannot be pinned.</param>
/// <param name="asked">A run that the kernel has refused just now, so that it is not asked again; the default for none.</param>
/// <param name="answer">What it said.</param>
internal sealed class PinExecution(Pinner pinner, PinPlan plan, PinPolicy policy, DmaMapping asked, Errno answer)
{
    private const ulong Page = 4096;

    private readonly List<DmaMapping> _mapped = [];
    private readonly List<PinFailure> _failures = [.. plan.Refused];
    private int _referenced;
    private int _placed;
    // Set when a limit of the whole container or process is reached: no further call can succeed.
    private Errno _exhausted;

    /// <summary>Carries the plan out.</summary>
    /// <param name="demand">Throws if the plan must not be begun; the plan's IOVAs are given back then too.</param>
    /// <returns>What was pinned and what was not.</returns>
    public RegisteredMemory Run(Action demand)
    {
        try
        {
            demand();
            foreach (DmaMapping reference in plan.References)
            {
                pinner.AddReference(reference.Host.First);
                _referenced++;
            }

            while (_placed < plan.Maps.Count)
            {
                DmaMapping run = plan.Maps[_placed++].Mapping;
                Try(run, knownBad: false);
                if (policy == PinPolicy.AllOrNothing && _failures.Count > 0)
                {
                    throw Explain(_failures[0]);
                }
            }

            return new RegisteredMemory(pinner, [.. plan.References, .. _mapped], _failures);
        }
        catch (Exception e)
        {
            LinuxException? stuck = Undo();
            if (stuck is null)
            {
                throw;
            }

            throw e is LinuxException failed
                ? new LinuxException(failed.Call, failed.Errno,
                    $"{failed.Detail}; and undoing failed, so that memory stays pinned and must stay mapped: {stuck.Message}", failed.Cause, failed.Cure)
                : new LinuxException(stuck.Call, stuck.Errno,
                    $"{stuck.Detail}, so that memory stays pinned and must stay mapped; it was to be undone because: {e.Message}", stuck.Cause, stuck.Cure);
        }
    }

    // Whether the whole run went in with one call.
    private bool Try(DmaMapping run, bool knownBad)
    {
        if (policy == PinPolicy.AllOrNothing && _failures.Count > 0)
        {
            // Everything is undone: what else cannot be pinned need not be found.
            pinner.GiveBack(run.Iova);
            return false;
        }

        if (_exhausted != Errno.None)
        {
            Fail(run, _exhausted);
            return false;
        }

        ulong pages = run.Host.Length / Page;
        if (!knownBad || pages == 1)
        {
            // What the kernel has mapped must not be lost because there is no memory for it.
            _mapped.EnsureCapacity(_mapped.Count + 1);
            Errno errno = run == asked ? answer : pinner.TryMap(run);
            if (errno == Errno.None)
            {
                _mapped.Add(run);
                return true;
            }

            if (pages == 1 || !MayDependOnThePage(errno))
            {
                // No memory for one page means none for any other; an entry is needed for any map.
                if (errno is Errno.ENOSPC or Errno.ENOMEM)
                {
                    _exhausted = errno;
                }

                Fail(run, errno);
                return false;
            }
        }

        ulong half = pages / 2 * Page;
        DmaMapping lower = Part(run, 0, half);
        DmaMapping upper = Part(run, half, run.Host.Length - half);
        bool lowerWentIn = Try(lower, knownBad: false);
        Try(upper, knownBad: lowerWentIn);
        return false;
    }

    // What is wrong with the call as a whole stays wrong with half of it. EEXIST is not: somebody mapped part of the IOVAs past the pinner, and
    // what lies beside that can be had; nothing is translated through it, as each page is known by a mapping of its own. Nor is EINVAL, where
    // part of the run lies outside of what the IOMMU takes; where all of it does, each page is bad and costs two calls.
    private static bool MayDependOnThePage(Errno errno) => errno is not (
        Errno.ENOSPC or Errno.EBADF or Errno.ENODEV or Errno.ENOTTY or Errno.EOVERFLOW);

    private static DmaMapping Part(in DmaMapping run, ulong offset, ulong length) => new(
        HostRange.Of(run.Host.First + offset, length), IovaRange.Of(run.Iova.First + offset, length), run.Access);

    private void Fail(in DmaMapping run, Errno errno)
    {
        pinner.GiveBack(run.Iova);
        SystemFailure? known = VfioFailures.Find("VFIO_IOMMU_MAP_DMA", errno);
        // Neighbours that failed for one reason are one failure.
        if (_failures.Count > 0 && _failures[^1] is var last && last.Errno == errno && last.Host.Last.Value + 1 == run.Host.First.Value)
        {
            _failures[^1] = last with { Host = new HostRange(last.Host.First, run.Host.Last) };
            return;
        }

        _failures.Add(new PinFailure(run.Host, errno, known?.Cause, known?.Cure));
    }

    private LinuxException Explain(PinFailure failure) => failure.Errno switch
    {
        Errno.ENOMEM when plan.Limits.Memlock.Left is { } left => new LinuxException(
            "VFIO_IOMMU_MAP_DMA", failure.Errno, $"{failure.Host}: {ByteSize.Text(plan.LockedBytes)} to pin, {ByteSize.Text(left)} allowed",
            failure.Cause, plan.Limits.Memlock.Cure(plan.LockedBytes)),
        _ => failure.Exception(),
    };

    // Everything back to what it was: first what devices reach, in reverse, then the IOVAs that were only planned. What cannot be
    // unmapped keeps its IOVA, so that it is never handed out again.
    private LinuxException? Undo()
    {
        LinuxException? stuck = null;
        for (int i = _mapped.Count - 1; i >= 0; i--)
        {
            Release(_mapped[i]);
        }

        for (int i = _referenced - 1; i >= 0; i--)
        {
            Release(plan.References[i]);
        }

        for (int i = plan.Maps.Count - 1; i >= _placed; i--)
        {
            pinner.GiveBack(plan.Maps[i].Mapping.Iova);
        }

        return stuck;

        void Release(DmaMapping mapping)
        {
            try
            {
                pinner.ReleaseOne(mapping.Host.First, wantsDirty: false);
            }
            catch (LinuxException e)
            {
                stuck ??= e;
            }
        }
    }
}
