using System.Globalization;
using Vfio.Linux;

namespace Vfio.Service;

/// <summary>RLIMIT_MEMLOCK and huge pages, against a wanted size where one is known.</summary>
internal static class MemoryFindings
{
    private const ulong MiB = 1ul << 20;
    private const ulong SmallPool = 64 * MiB;

    public static IEnumerable<Finding> Of(Sysfs sysfs, ulong? size, DaemonInfo? daemon, string whyNoDaemon)
    {
        // Of the process that will pin.
        yield return daemon is null
            ? Memlock(MemlockLimit.Read(sysfs), $"this process ({whyNoDaemon})", size)
            : Memlock(daemon.Memlock.ToLimit(daemon.ProcessId), string.Create(CultureInfo.InvariantCulture, $"the daemon (pid {daemon.ProcessId})"), size);
        foreach (MemoryBacking backing in new[] { MemoryBacking.Huge2MiB, MemoryBacking.Huge1GiB })
        {
            yield return Pages(sysfs, backing, size);
        }
    }

    private static Finding Memlock(MemlockLimit limit, string who, ulong? size)
    {
        if (limit.Left is not ulong left)
        {
            return new Finding(
                "memlock", FindingStatus.Ok, limit.Exempt ? $"{who} has CAP_IPC_LOCK: no limit applies" : $"RLIMIT_MEMLOCK of {who} is unlimited", null);
        }

        string text = string.Create(CultureInfo.InvariantCulture, $"RLIMIT_MEMLOCK leaves {left / MiB} MiB to {who}");
        ulong wanted = size ?? SmallPool;
        return left >= wanted
            ? new Finding("memlock", FindingStatus.Ok, text, null)
            : new Finding(
                "memlock",
                size is null ? FindingStatus.Warning : FindingStatus.Failure,
                string.Create(CultureInfo.InvariantCulture, $"{text}, {wanted / MiB} MiB {(size is null ? "is a small pool" : "are wanted")}"),
                limit.Cure(wanted));
    }

    private static Finding Pages(Sysfs sysfs, MemoryBacking backing, ulong? size)
    {
        string subject = $"huge pages of {backing.Name()}";
        if (HugePages.Read(sysfs, backing) is not { } pages)
        {
            return new Finding(subject, FindingStatus.Warning, "this kernel or processor has none of this size", "use another page size");
        }

        string nodes = string.Join(", ", HugePages.ReadNodes(sysfs, backing).Select(n =>
            string.Create(CultureInfo.InvariantCulture, $"node {n.Node}: {n.Free} of {n.Total}")));
        string text = string.Create(
            CultureInfo.InvariantCulture, $"{pages.Available} of {pages.Total} free{(nodes.Length == 0 ? string.Empty : $" ({nodes})")}");
        ulong pageSize = backing.PageSize();
        ulong need = size is ulong bytes ? (bytes + pageSize - 1) / pageSize : 0;
        // Gigabyte pages are a wish of few, and no page size is needed by all: this is never more than a warning.
        if (pages.Available < need)
        {
            return new Finding(
                subject, FindingStatus.Warning, string.Create(CultureInfo.InvariantCulture, $"{text}, {need} are needed"), pages.Cure(need));
        }

        return pages.Total == 0 && backing == MemoryBacking.Huge2MiB
            ? new Finding(subject, FindingStatus.Warning, "none are reserved", pages.Cure(64))
            : new Finding(subject, FindingStatus.Ok, text, null);
    }
}
