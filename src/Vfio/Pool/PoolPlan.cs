using System.Globalization;
using Vfio.Linux;

namespace Vfio;

/// <summary>What making a pool, or growing one, would do. Nothing has been touched.</summary>
/// <param name="Backing">The pages that it would be made of: the first of the list that can be had, else the first.</param>
/// <param name="Size">Bytes.</param>
/// <param name="Pin">What pinning it would do, or null for a pool with no device.</param>
/// <param name="Problems">Everything that stands against it; none when it can work.</param>
public sealed record PoolPlan(MemoryBacking Backing, ulong Size, PinPlan? Pin, IReadOnlyList<PinProblem> Problems)
{
    /// <summary>Whether nothing stands against it.</summary>
    public bool CanWork => Problems.Count == 0;

    /// <summary>Plans a pool, or a segment of one.</summary>
    /// <param name="options">What it shall be like.</param>
    /// <param name="limits">The limits of the container, or null for a pool with no device.</param>
    /// <param name="sysfs">Where <c>/sys</c> and <c>/proc</c> are; the real ones by default.</param>
    /// <returns>The plan.</returns>
    public static PoolPlan For(PinnedPoolOptions options, PinLimits? limits, Sysfs? sysfs = null) =>
        For(options, sysfs ?? new Sysfs(), limits is null ? null : (ranges, pin) => PinPlanner.Plan(ranges, limits, pin));

    /// <summary>Plans a pool in a container in which other things may be pinned already.</summary>
    /// <param name="options">What it shall be like.</param>
    /// <param name="pinner">The container's pinner.</param>
    /// <param name="sysfs">Where <c>/sys</c> and <c>/proc</c> are; the real ones by default.</param>
    /// <returns>The plan.</returns>
    public static PoolPlan For(PinnedPoolOptions options, Pinner pinner, Sysfs? sysfs = null)
    {
        ArgumentNullException.ThrowIfNull(pinner);
        return For(options, sysfs ?? new Sysfs(), pinner.Plan);
    }

    /// <summary>Throws the first problem.</summary>
    /// <param name="what">What is being made, for the message.</param>
    /// <exception cref="LinuxException">The plan cannot work.</exception>
    public void ThrowIfImpossible(string what)
    {
        if (Problems.Count > 0)
        {
            throw Problems[0].Exception(what);
        }
    }

    private static PoolPlan For(PinnedPoolOptions options, Sysfs sysfs, Func<IReadOnlyList<PinRange>, PinOptions, PinPlan>? pin)
    {
        ArgumentNullException.ThrowIfNull(options);
        if (options.Backings.Count == 0)
        {
            throw new ArgumentException("a pool is made of pages of some size: name at least one", nameof(options));
        }

        if (options.BufferSize < 64 || options.BufferSize > 1 << 30 || !int.IsPow2(options.BufferSize))
        {
            throw new ArgumentException($"a buffer of {options.BufferSize} bytes: a power of two from 64 bytes to 1 GiB is wanted", nameof(options));
        }

        // Each size of the list in turn; what stands against the last one would be no answer to one who asked for the first.
        List<PinProblem>? first = null;
        MemoryBacking backing = options.Backings[0];
        var problems = new List<PinProblem>();
        foreach (MemoryBacking candidate in options.Backings)
        {
            problems = Memory(options.Size, candidate, sysfs);
            if (problems.Count == 0)
            {
                backing = candidate;
                break;
            }

            first ??= problems;
        }

        if (problems.Count > 0)
        {
            problems = first!;
        }

        PinPlan? plan = null;
        if (pin is not null && options.Size > 0 && options.Size % 4096 == 0)
        {
            var range = new PinRange(HostRange.Of(new HostAddress(0), options.Size), DmaAccess.ReadWrite, backing);
            plan = pin([range], new PinOptions { Grain = options.Grain, Contiguous = true });
            problems.AddRange(plan.Problems);
        }

        return new PoolPlan(backing, options.Size, plan, problems);
    }

    private static List<PinProblem> Memory(ulong size, MemoryBacking backing, Sysfs sysfs)
    {
        var problems = new List<PinProblem>();
        ulong page = backing.PageSize();
        if (size == 0 || size % page != 0)
        {
            ulong up = size == 0 ? page : size > ulong.MaxValue - page ? size - (size % page) : (size + page - 1) / page * page;
            problems.Add(new PinProblem("size", "mmap", Errno.EINVAL, up, size, "bytes",
                size == 0 ? "a pool of no bytes holds nothing" : $"memory of {backing.Name()} pages comes in multiples of {ByteSize.Text(page)}",
                size == 0 ? $"ask for at least {ByteSize.Text(page)}" : $"ask for {ByteSize.Text(up)}"));
            return problems;
        }

        MachineMemory? machine = MachineMemory.Read(sysfs);
        if (machine is not null && size > machine.Total)
        {
            problems.Add(new PinProblem("memory", "mmap", Errno.ENOMEM, size, machine.Total, "bytes",
                "the machine has less memory than that", $"ask for less than {ByteSize.Text(machine.Available)}, what is available now"));
        }
        else if (backing.IsReserved())
        {
            ulong pages = size / page;
            HugePages? huge = HugePages.Read(sysfs, backing);
            if (huge is null)
            {
                problems.Add(new PinProblem("huge pages", "memfd_create", Errno.ENODEV, pages, 0, $"pages of {backing.Name()}",
                    "this kernel or processor has no pages of this size", "ask for another page size"));
            }
            else if (huge.Available < pages)
            {
                problems.Add(new PinProblem("huge pages", "mmap", Errno.ENOMEM, pages, huge.Available, $"pages of {backing.Name()}",
                    string.Create(CultureInfo.InvariantCulture, $"{huge.Total} are reserved in the kernel, and {huge.Available} of them are free"), huge.Cure(pages)));
            }
        }
        else if (machine is not null && size > machine.Available)
        {
            problems.Add(new PinProblem("memory", "madvise", Errno.ENOMEM, size, machine.Available, "bytes",
                "less memory is available, and populating more would have processes killed", "end what uses memory, or ask for less"));
        }

        return problems;
    }
}
