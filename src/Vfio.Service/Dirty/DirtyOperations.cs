using System.Diagnostics.CodeAnalysis;
using Microsoft.Win32.SafeHandles;
using Vfio.Linux;

namespace Vfio.Service;

/// <summary>Names a pool, and whether the kernel's tracking is meant too.</summary>
/// <param name="Name">The pool.</param>
/// <param name="Kernel">Whether the kernel is asked besides the pool's own record.</param>
public sealed record DirtyRequest(string Name, bool Kernel = false);

/// <summary>An export that is wanted. The file goes along with the call as a descriptor.</summary>
/// <param name="Name">The pool.</param>
/// <param name="Kernel">Whether the kernel is asked besides the pool's own record.</param>
/// <param name="Base">Whether everything is written, and a chain starts; else what changed since the last export.</param>
/// <param name="Since">The export to follow, which must be the last one; null for whichever that is.</param>
public sealed record ExportRequest(string Name, bool Kernel = false, bool Base = false, Guid? Since = null);

/// <summary>Pages of a pool that were written, as <c>dirty show</c> tells them.</summary>
/// <param name="Pool">The pool.</param>
/// <param name="Size">Its bytes.</param>
/// <param name="PageSize">Bytes of a page.</param>
/// <param name="DirtyPages">Pages that are named.</param>
/// <param name="Precision">How far the answer can be trusted: exact, superset or unknown.</param>
/// <param name="Sources">Who says so.</param>
/// <param name="InFlightPages">Pages that a device may be writing now.</param>
/// <param name="KernelIsTracking">Whether the kernel's tracking is on.</param>
/// <param name="ForeignWriter">Who writes the pool without telling, or null.</param>
/// <param name="Ranges">The pages, neighbours joined.</param>
public sealed record DirtyInfo(
    string Pool,
    ulong Size,
    ulong PageSize,
    ulong DirtyPages,
    DirtyPrecision Precision,
    string Sources,
    ulong InFlightPages,
    bool KernelIsTracking,
    string? ForeignWriter,
    IReadOnlyList<DirtyRangeInfo> Ranges);

/// <summary>A run of dirty pages.</summary>
/// <param name="Offset">Bytes from the pool's start.</param>
/// <param name="Length">Bytes.</param>
public sealed record DirtyRangeInfo(ulong Offset, ulong Length);

/// <summary>An export that was written or put back.</summary>
/// <param name="Id">The export.</param>
/// <param name="Follows">The export that it follows, or null for a base.</param>
/// <param name="Sequence">Its place in the chain, from 0.</param>
/// <param name="PoolLength">Bytes of the pool.</param>
/// <param name="Precision">How far the answer could be trusted that chose its pages.</param>
/// <param name="Extents">Runs of pages in it.</param>
/// <param name="DataBytes">Bytes of those pages.</param>
public sealed record ExportInfo(Guid Id, Guid? Follows, ulong Sequence, ulong PoolLength, DirtyPrecision Precision, ulong Extents, ulong DataBytes)
{
    internal static ExportInfo Of(PoolExportHeader header) => new(
        header.Id, header.Base, header.Sequence, header.PoolLength, header.Precision, header.Extents, header.DataBytes);
}

/// <summary>Operations on a pool's record of written pages.</summary>
public static class DirtyOperations
{
    /// <summary>Why an export is not written to a stream.</summary>
    public const string ExportNeedsFile = "an export counts as made when it is on the disk, so it goes to a file";

    /// <summary>Why an export is not read from a stream.</summary>
    public const string RestoreNeedsFile = "an export is checked before the first byte is put back, so it is read twice";

    /// <summary>Counts from now on, and starts the kernel's tracking where that is wanted.</summary>
    public static Operation<DirtyRequest, DirtyInfo> Start { get; } = new(
        "dirty.start", static json => json.DirtyRequest, static json => json.DirtyInfo, static (engine, request, _) => On(engine, request.Name, "dirty start", pool =>
        {
            DirtyTracker tracker = Tracker(pool);
            if (request.Kernel && !tracker.KernelIsTracking)
            {
                tracker.StartKernel();
            }

            tracker.Restart();
            return Show(pool, tracker.Peek());
        }));

    /// <summary>Stops the kernel's tracking and forgets the marks.</summary>
    public static Operation<DirtyRequest, DirtyInfo> Stop { get; } = new(
        "dirty.stop", static json => json.DirtyRequest, static json => json.DirtyInfo, static (engine, request, _) => On(engine, request.Name, "dirty stop", pool =>
        {
            DirtyTracker tracker = Tracker(pool);
            if (tracker.KernelIsTracking)
            {
                tracker.StopKernel();
            }

            tracker.Restart();
            return Show(pool, tracker.Peek());
        }));

    /// <summary>Shows the written pages, which stay marked.</summary>
    public static Operation<DirtyRequest, DirtyInfo> Look { get; } = new(
        "dirty.show", static json => json.DirtyRequest, static json => json.DirtyInfo, static (engine, request, _) => On(engine, request.Name, "dirty show", pool =>
        {
            DirtyTracker tracker = Tracker(pool);
            return Show(pool, request.Kernel ? tracker.Peek(Sources(kernel: true)) : tracker.Peek());
        }));

    /// <summary>Writes a base, or what changed since the last export.</summary>
    public static Operation<ExportRequest, ExportInfo> Export { get; } = new(
        "dirty.export", static json => json.ExportRequest, static json => json.ExportInfo, static (engine, request, context) => On(engine, request.Name, "dirty export", pool =>
        {
            try
            {
                // In here: what is left in its buffer is tried once more at its end, and fails again.
                using FileStream file = FileOf(context, 0, FileAccess.Write, ExportNeedsFile);
                PoolExportHeader header = request.Base
                    ? PoolExporter.ExportBase(pool, file, Sources(request.Kernel))
                    : PoolExporter.ExportChanges(pool, file, request.Since, Sources(request.Kernel));
                return ExportInfo.Of(header);
            }
            catch (IOException e) when (e is not LinuxException && e.HResult > 0)
            {
                // .NET has no class for it: what it has of the kernel is the number.
                throw new LinuxException("write", (Errno)e.HResult, $"the export of pool {pool.Name}");
            }
        }));

    /// <summary>Puts a chain of exports back into a pool that nobody uses. The files go along with the call, the base first.</summary>
    public static Operation<PoolName, PoolInfo> Restore { get; } = new(
        "pool.restore", static json => json.PoolName, static json => json.PoolInfo, static (engine, request, context) =>
        {
            EnginePool pool = engine.GetPool(request.Name);
            List<FileStream> chain = [];
            Action end = engine.Occupy(pool, "pool restore");
            try
            {
                for (int i = 0; i < context.Descriptors.Count; i++)
                {
                    chain.Add(FileOf(context, i, FileAccess.Read, RestoreNeedsFile));
                }

                PoolExporter.Restore(pool.Pool, chain);
            }
            catch (InvalidDataException e)
            {
                throw new LinuxException("pool restore", Errno.EINVAL, e.Message, "the files are not a whole chain of exports", "name the base first, then each export in the order they were made");
            }
            finally
            {
                chain.ForEach(f => f.Dispose());
                end();
            }

            return PoolInfo.Of(pool);
        });

    private static T On<T>(Engine engine, string name, string what, Func<PinnedPool, T> work)
    {
        EnginePool pool = engine.GetPool(name);
        Action end = pool.Use(what, PoolShare.Reads);
        try
        {
            return work(pool.Pool);
        }
        finally
        {
            end();
        }
    }

    private static DirtySources Sources(bool kernel) => kernel ? DirtySources.OwnRecord | DirtySources.Kernel : DirtySources.OwnRecord;

    private static DirtyTracker Tracker(PinnedPool pool) => pool.Dirty
        ?? throw new LinuxException("dirty", Errno.EOPNOTSUPP, pool.Name, "the pool keeps no record of writes", "make it anew");

    [SuppressMessage("Reliability", "CA2000:Dispose objects before losing scope", Justification = "the stream disposes it, and it owns nothing")]
    private static FileStream FileOf(OperationContext context, int index, FileAccess access, string why)
    {
        if (index >= context.Descriptors.Count)
        {
            throw new LinuxException("dirty", Errno.EINVAL, "no descriptor", "no file came along with the call", "name one");
        }

        if (!FileKinds.CanSeek(context.Descriptors[index]))
        {
            throw new LinuxException("dirty", Errno.ESPIPE, "a pipe, a socket or a terminal", why, "name a file, and copy from or to that");
        }

        var handle = new SafeFileHandle(context.Descriptors[index].Number, ownsHandle: false);
        return new FileStream(handle, access);
    }

    private static DirtyInfo Show(PinnedPool pool, DirtyAnswer answer) => new(
        pool.Name,
        answer.Length,
        DirtyBitmap.PageSize,
        answer.DirtyPages,
        answer.Precision,
        answer.Sources.ToString(),
        answer.InFlightPages,
        Tracker(pool).KernelIsTracking,
        Tracker(pool).ForeignWriter,
        [.. answer.Ranges().Select(r => new DirtyRangeInfo(r.First.Value, r.Length))]);
}
