using System.CommandLine;
using System.Globalization;
using Vfio.Cli.Terminal;
using Vfio.Linux;
using Vfio.Service;

namespace Vfio.Cli.Verbs;

/// <summary><c>vfiopin pool plan|create|list|show|grow|shrink|restore|destroy</c>.</summary>
internal static class PoolVerbs
{
    public static Command Build(VerbBuilder verbs) => verbs.Noun(
        "pool",
        "Pools of pinned memory, held by the daemon",
        BuildPlan(verbs),
        BuildCreate(verbs),
        BuildList(verbs),
        BuildShow(verbs),
        BuildGrow(verbs),
        BuildShrink(verbs),
        BuildRestore(verbs),
        BuildDestroy(verbs));

    public static Argument<string> Name() => new("POOL") { Description = "The pool's name" };

    private static Command BuildPlan(VerbBuilder verbs)
    {
        var shape = new PoolShape(needsDevice: false);
        return verbs.Verb(
            "plan",
            "Says what making a pool would pin, and what stands against it; touches nothing",
            ["vfiopin pool plan --size 128MiB --page-size 2MiB --device 0000:00:04.0", "vfiopin pool plan --size 64GiB --page-size 1GiB,2MiB"],
            shape.Options,
            run =>
            {
                using IControl control = run.DaemonOrLocal();
                PoolPlanInfo plan = run.Call(control, PoolOperations.Plan, shape.Request(run, "plan"));
                run.Show(plan, static json => json.PoolPlanInfo, ShowPlan);
                return plan.CanWork ? Vfiopin.Done : Vfiopin.Failed;
            });
    }

    private static Command BuildCreate(VerbBuilder verbs)
    {
        Argument<string> name = Name();
        var shape = new PoolShape(needsDevice: true);
        Option<int?> threads = PopulateThreads("one per processor");
        return verbs.Verb(
            "create",
            "Makes a pool, pins it, and maps it for its devices",
            ["vfiopin pool create demo --size 128MiB --page-size 2MiB --device 0000:00:04.0"],
            [name, .. shape.Options, threads],
            run =>
            {
                PoolRequest request = shape.Request(run, run.Get(name)) with { PopulateThreads = Threads(run, threads) ?? 0 };
                using IControl control = run.Daemon();
                run.Show(run.Call(control, PoolOperations.Create, request), static json => json.PoolInfo, ShowPool);
                return Vfiopin.Done;
            });
    }

    private static Command BuildList(VerbBuilder verbs) => verbs.Verb(
        "list",
        "Lists the daemon's pools",
        ["vfiopin pool list"],
        [],
        run =>
        {
            using IControl control = run.Daemon();
            run.Show(run.Call(control, PoolOperations.List, NoParameters.Instance), static json => json.PoolInfoArray, (pools, view) =>
                view.Table(["POOL", "SIZE", "PAGES", "MAPS", "IN USE", "DEVICES"], pools.Select(p => new[]
                {
                    p.Name, SizeText.Of(p.Size), Pages(p), Text(p.EntriesUsed), SizeText.Of(p.BytesInUse), string.Join(' ', p.Devices),
                })));
            return Vfiopin.Done;
        });

    private static Command BuildShow(VerbBuilder verbs)
    {
        Argument<string> name = Name();
        return verbs.Verb("show", "Shows a pool with its segments", ["vfiopin pool show demo"], [name], run =>
        {
            using IControl control = run.Daemon();
            run.Show(run.Call(control, PoolOperations.Show, new PoolName(run.Get(name))), static json => json.PoolInfo, ShowPool);
            return Vfiopin.Done;
        });
    }

    private static Command BuildGrow(VerbBuilder verbs)
    {
        Argument<string> name = Name();
        Option<ulong?> by = By();
        Option<int?> threads = PopulateThreads("as when the pool was made");
        return verbs.Verb("grow", "Adds memory to a pool, as a segment of its own", ["vfiopin pool grow demo --by 64MiB"], [name, by, threads], run =>
        {
            var growth = new PoolGrowth(run.Get(name), run.Get(by) ?? 0) { PopulateThreads = Threads(run, threads) };
            using IControl control = run.Daemon();
            run.Show(run.Call(control, PoolOperations.Grow, growth), static json => json.PoolInfo, ShowPool);
            return Vfiopin.Done;
        });
    }

    private static Command BuildShrink(VerbBuilder verbs)
    {
        Argument<string> name = Name();
        Option<ulong?> by = By();
        return verbs.Verb("shrink", "Takes memory off the end of a pool", ["vfiopin pool shrink demo --by 64MiB"], [name, by], run =>
        {
            using IControl control = run.Daemon();
            run.Show(
                run.Call(control, PoolOperations.Shrink, new PoolChange(run.Get(name), run.Get(by) ?? 0)), static json => json.PoolInfo, ShowPool);
            return Vfiopin.Done;
        });
    }

    private static Option<ulong?> By() => SizeParser.Option("--by", "Bytes, a multiple of the page size", required: true);

    private static Option<int?> PopulateThreads(string otherwise) => new("--populate-threads")
    {
        Description = $"Threads that make the pages, 1 to {PoolRequest.MostPopulateThreads} [default: {otherwise}]",
        HelpName = "N",
    };

    private static int? Threads(Invocation run, Option<int?> option) => run.Get(option) switch
    {
        < 1 or > PoolRequest.MostPopulateThreads => throw new UsageException($"{option.Name} {run.Get(option)}: 1 to {PoolRequest.MostPopulateThreads} threads"),
        var threads => threads,
    };

    private static Command BuildRestore(VerbBuilder verbs)
    {
        Argument<string> name = Name();
        var files = new Argument<string[]>("EXPORT") { Description = "Exports in order, the base first", Arity = ArgumentArity.OneOrMore };
        return verbs.Verb(
            "restore",
            "Puts a chain of exports back into a pool that nobody uses",
            ["vfiopin pool restore demo2 base.export changes-1.export"],
            [name, files],
            run =>
            {
                using IControl control = run.Daemon();
                var chain = new List<DataFile>();
                try
                {
                    chain.AddRange(run.Get(files).Select(f => DataFile.Input(f, run.Environment, DirtyOperations.RestoreNeedsFile)));
                    FileDescriptor[] descriptors = [.. chain.Select(f => f.Descriptor)];
                    run.Show(
                        run.Call(control, DirtyOperations.Restore, new PoolName(run.Get(name)), descriptors), static json => json.PoolInfo, ShowPool);
                }
                finally
                {
                    chain.ForEach(f => f.Dispose());
                }

                return Vfiopin.Done;
            });
    }

    private static Command BuildDestroy(VerbBuilder verbs)
    {
        Argument<string> name = Name();
        return verbs.Verb("destroy", "Unpins a pool and gives its memory back", ["vfiopin pool destroy demo"], [name], run =>
        {
            using IControl control = run.Daemon();
            run.Show(
                run.Call(control, PoolOperations.Destroy, new PoolName(run.Get(name))),
                static json => json.PoolName,
                (pool, view) => view.Line($"destroyed {pool.Name}"));
            return Vfiopin.Done;
        });
    }

    private static void ShowPool(PoolInfo pool, TextView view)
    {
        view.List(
        [
            ("pool", pool.Name),
            ("size", SizeText.Of(pool.Size)),
            ("pinned", SizeText.Of(pool.PinnedBytes)),
            ("map calls", Text(pool.MapCalls)),
            ("IOMMU entries", pool.EntriesAvailable is uint left
                ? string.Create(CultureInfo.InvariantCulture, $"{pool.EntriesUsed} used, {left} left") : Text(pool.EntriesUsed)),
            ("in use", string.Create(
                CultureInfo.InvariantCulture,
                $"{SizeText.Of(pool.BytesInUse)} ({pool.BuffersInUse} buffers of {SizeText.Of((ulong)pool.BufferSize)}, {pool.PiecesInUse} pieces)")),
            ("devices", string.Join(' ', pool.Devices)),
        ]);
        view.Table(["OFFSET", "LENGTH", "IOVA", "PAGES", "MAPS", "NUMA"], pool.Segments.Select(s => new[]
        {
            SizeText.Of(s.Offset), SizeText.Of(s.Length), s.Iova.ToString(), s.PageSize, Text(s.Maps), Nodes(s),
        }));
    }

    private static void ShowPlan(PoolPlanInfo plan, TextView view)
    {
        view.Table(["IOVA", "LENGTH", "IOMMU PAGES UP TO"], plan.Maps.Select(m => new[]
        {
            m.Iova.ToString(), SizeText.Of(m.Length), SizeText.Of(m.LargestPage),
        }));
        view.List(
        [
            ("size", $"{SizeText.Of(plan.Size)} of {plan.PageSize} pages"),
            ("map calls", Text(plan.MapCalls)),
            ("IOMMU entries", plan.EntriesAvailable is uint left
                ? string.Create(CultureInfo.InvariantCulture, $"{plan.Entries} of {left}") : Text(plan.Entries)),
            ("counts as locked", plan.MemlockLimit is ulong limit
                ? $"{SizeText.Of(plan.LockedBytes)}; RLIMIT_MEMLOCK is {SizeText.Of(limit)}" : $"{SizeText.Of(plan.LockedBytes)}; nothing limits it"),
            ("freed in pieces of", SizeText.Of(plan.FreeGranularity)),
            ("IOVA ranges", string.Join(", ", plan.ValidRanges)),
            ("limits", plan.Assumed ? "the usual ones; name a --device to ask its container" : "of the device's container"),
        ]);
        foreach (ProblemInfo problem in plan.Problems)
        {
            bool bytes = problem.Unit == "bytes";
            string Amount(ulong value) => bytes ? SizeText.Of(value) : string.Create(CultureInfo.InvariantCulture, $"{value} {problem.Unit}");
            view.Line($"cannot work: {problem.Limit}: {Amount(problem.Need)} needed, {Amount(problem.Have)} there, {Amount(problem.Missing)} short. "
                + $"Cause: {problem.Cause}. Cure: {problem.Cure}");
        }
    }

    private static string Pages(PoolInfo pool) => string.Join(',', pool.Segments.Select(s => s.PageSize).Distinct());

    private static string Nodes(SegmentInfo segment) => segment.Nodes is { Count: > 0 }
        ? string.Join(' ', segment.Nodes.Select(n => string.Create(CultureInfo.InvariantCulture, $"{n.Key}:{SizeText.Of(n.Value)}")))
            + (segment.NodeRefused is null ? string.Empty : $" (mbind: {segment.NodeRefused})")
        : segment.NodeRefused is null ? "-" : $"mbind: {segment.NodeRefused}";

    private static string Text(long value) => value.ToString(CultureInfo.InvariantCulture);
}
