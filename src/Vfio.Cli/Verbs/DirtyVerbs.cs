using System.CommandLine;
using System.Globalization;
using Vfio.Cli.Terminal;
using Vfio.Service;

namespace Vfio.Cli.Verbs;

/// <summary><c>vfiopin dirty start|stop|show|export</c>.</summary>
internal static class DirtyVerbs
{
    public static Command Build(VerbBuilder verbs) => verbs.Noun(
        "dirty",
        "Which pages of a pool were written, and checkpoints of them",
        BuildCall(verbs, "start", "Counts written pages from now on", "Start the kernel's tracking too", DirtyOperations.Start),
        BuildCall(verbs, "stop", "Stops the kernel's tracking and forgets what was counted", null, DirtyOperations.Stop),
        BuildCall(verbs, "show", "Shows the written pages, which stay marked", "Ask the kernel too, which names every mapped page for ordinary devices", DirtyOperations.Look),
        BuildExport(verbs));

    private static Command BuildCall(
        VerbBuilder verbs, string verb, string description, string? kernelDescription, Operation<DirtyRequest, DirtyInfo> operation)
    {
        Argument<string> name = PoolVerbs.Name();
        Option<bool>? kernel = kernelDescription is null ? null : new Option<bool>("--kernel") { Description = kernelDescription };
        return verbs.Verb(verb, description, [$"vfiopin dirty {verb} demo"], kernel is null ? [name] : [name, kernel], run =>
        {
            using IControl control = run.Daemon();
            var request = new DirtyRequest(run.Get(name), kernel is not null && run.Get(kernel));
            run.Show(run.Call(control, operation, request), static json => json.DirtyInfo, Show);
            return Vfiopin.Done;
        });
    }

    private static Command BuildExport(VerbBuilder verbs)
    {
        Argument<string> name = PoolVerbs.Name();
        var output = new Option<string>("--out") { Description = "The file to write", HelpName = "FILE", Required = true };
        var isBase = new Option<bool>("--base") { Description = "Write everything, and start a chain of exports" };
        var since = new Option<Guid?>("--since") { Description = "The export that this one must follow [default: the last one]", HelpName = "ID" };
        var kernel = new Option<bool>("--kernel") { Description = "Ask the kernel too" };
        return verbs.Verb(
            "export",
            "Writes the pages that changed since the last export",
            ["vfiopin dirty export demo --base --out base.export", "vfiopin dirty export demo --out changes-1.export"],
            [name, output, isBase, since, kernel],
            run =>
            {
                if (run.Get(isBase) && run.Get(since) is not null)
                {
                    throw new UsageException("--base starts a chain and --since follows one: say one of them");
                }

                string path = run.Get(output)!;
                if (path == "-")
                {
                    throw new UsageException("--out -: an export goes to a file");
                }

                using IControl control = run.Daemon();
                using DataFile file = DataFile.Output(path, run.Environment, DirtyOperations.ExportNeedsFile);
                var request = new ExportRequest(run.Get(name), run.Get(kernel), run.Get(isBase), run.Get(since));
                ExportInfo info = run.Call(control, DirtyOperations.Export, request, file.Descriptor);
                file.Commit();
                run.Show(info, static json => json.ExportInfo, (e, view) => view.List(
                [
                    ("export", e.Id.ToString()),
                    ("follows", e.Follows?.ToString() ?? "nothing: it is a base"),
                    ("number", e.Sequence.ToString(CultureInfo.InvariantCulture)),
                    ("pages from", $"an answer that is {e.Precision}"),
                    ("data", string.Create(CultureInfo.InvariantCulture, $"{SizeText.Of(e.DataBytes)} in {e.Extents} runs")),
                ]));
                return Vfiopin.Done;
            });
    }

    private static void Show(DirtyInfo dirty, TextView view)
    {
        ulong pages = dirty.Size / dirty.PageSize;
        view.List(
        [
            ("pool", dirty.Pool),
            ("dirty", string.Create(CultureInfo.InvariantCulture, $"{dirty.DirtyPages} of {pages} pages ({SizeText.Of(dirty.DirtyPages * dirty.PageSize)})")),
            ("the answer is", $"{dirty.Precision}, by {dirty.Sources}"),
            ("being written now", string.Create(CultureInfo.InvariantCulture, $"{dirty.InFlightPages} pages")),
            ("kernel tracking", dirty.KernelIsTracking ? "on" : "off"),
        ]);
        if (dirty.ForeignWriter is not null)
        {
            view.Line($"{dirty.ForeignWriter} writes the pool without telling, so every page counts as dirty");
        }

        if (view.IsTerminal)
        {
            HeatMap.Draw(dirty, view);
        }
        else
        {
            view.Table(["OFFSET", "LENGTH"], dirty.Ranges.Select(r => new[]
            {
                "0x" + r.Offset.ToString("x", CultureInfo.InvariantCulture), SizeText.Of(r.Length),
            }));
        }
    }
}
