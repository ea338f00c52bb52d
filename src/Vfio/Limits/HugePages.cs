using System.Globalization;
using Vfio.Linux;

namespace Vfio;

/// <summary>The kernel's reserved huge pages of one size, in the machine or on one NUMA node.</summary>
/// <param name="Backing">Which size.</param>
/// <param name="Node">The NUMA node, or null for the whole machine.</param>
/// <param name="Total">Pages reserved (<c>nr_hugepages</c>).</param>
/// <param name="Free">Pages not in use (<c>free_hugepages</c>), promised ones included.</param>
/// <param name="Promised">Pages promised to mappings that have not touched them yet (<c>resv_hugepages</c>); 0 for a node.</param>
/// <param name="Overcommit">Pages that the kernel may make beyond those reserved, and has not made yet; 0 for a node.</param>
public sealed record HugePages(MemoryBacking Backing, int? Node, ulong Total, ulong Free, ulong Promised, ulong Overcommit)
{
    /// <summary>Pages that a new mapping can have.</summary>
    public ulong Available => Free - Math.Min(Free, Promised) + Overcommit;

    /// <summary>Reads the machine's pages of one size.</summary>
    /// <param name="sysfs">Where <c>/sys</c> is.</param>
    /// <param name="backing">A reserved size.</param>
    /// <returns>The pages, or null when the kernel has no pages of this size.</returns>
    public static HugePages? Read(Sysfs sysfs, MemoryBacking backing)
    {
        ArgumentNullException.ThrowIfNull(sysfs);
        return ReadFrom(sysfs, "/sys/kernel/mm/hugepages", backing, null);
    }

    /// <summary>Reads the pages of one size on each NUMA node.</summary>
    /// <param name="sysfs">Where <c>/sys</c> is.</param>
    /// <param name="backing">A reserved size.</param>
    /// <returns>The nodes that have the size.</returns>
    public static IReadOnlyList<HugePages> ReadNodes(Sysfs sysfs, MemoryBacking backing)
    {
        ArgumentNullException.ThrowIfNull(sysfs);
        var nodes = new List<HugePages>();
        foreach (string name in sysfs.List("/sys/devices/system/node"))
        {
            if (name.StartsWith("node", StringComparison.Ordinal) && int.TryParse(name.AsSpan(4), CultureInfo.InvariantCulture, out int node)
                && ReadFrom(sysfs, $"/sys/devices/system/node/{name}/hugepages", backing, node) is { } pages)
            {
                nodes.Add(pages);
            }
        }

        return nodes;
    }

    /// <summary>The command that makes enough pages free.</summary>
    /// <param name="pages">Pages wanted.</param>
    /// <returns>One line of text.</returns>
    public string Cure(ulong pages)
    {
        ulong total = Total + pages - Math.Min(pages, Available);
        string command = string.Create(CultureInfo.InvariantCulture, $"echo {total} > {Directory(Root(Node), Backing)}/nr_hugepages");
        return Backing == MemoryBacking.Huge1GiB
            ? string.Create(CultureInfo.InvariantCulture,
                $"{command} (or hugepagesz=1G hugepages={total} on the kernel command line: memory in use for long has no free gigabyte)")
            : command;
    }

    private static string Root(int? node) => node is null ? "/sys/kernel/mm/hugepages"
        : string.Create(CultureInfo.InvariantCulture, $"/sys/devices/system/node/node{node}/hugepages");

    private static string Directory(string root, MemoryBacking backing) =>
        string.Create(CultureInfo.InvariantCulture, $"{root}/hugepages-{backing.PageSize() / ByteSize.KiB}kB");

    private static HugePages? ReadFrom(Sysfs sysfs, string root, MemoryBacking backing, int? node)
    {
        if (!backing.IsReserved())
        {
            throw new ArgumentOutOfRangeException(nameof(backing), backing, "2 MiB or 1 GiB");
        }

        string directory = Directory(root, backing);
        if (Number("nr_hugepages") is not { } total || Number("free_hugepages") is not { } free)
        {
            return null;
        }

        ulong surplus = Number("surplus_hugepages") ?? 0;
        ulong overcommit = Number("nr_overcommit_hugepages") ?? 0;
        return new HugePages(backing, node, total, free, Number("resv_hugepages") ?? 0, overcommit - Math.Min(overcommit, surplus));

        ulong? Number(string name) =>
            ulong.TryParse(sysfs.TryRead($"{directory}/{name}"), CultureInfo.InvariantCulture, out ulong value) ? value : null;
    }
}
