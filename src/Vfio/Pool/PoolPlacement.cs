using System.Globalization;
using Vfio.Linux;

namespace Vfio;

/// <summary>What pages a piece of memory really got, as the kernel tells in <c>/proc/self/numa_maps</c> and <c>smaps</c>.</summary>
/// <param name="PageSize">Bytes of the pages that the memory's file system or kind has (4 KiB for transparent ones too).</param>
/// <param name="TransparentBytes">Bytes that are in transparent huge pages.</param>
/// <param name="NodeBytes">Bytes on each NUMA node; empty where the kernel does not tell.</param>
public sealed record PoolPlacement(ulong PageSize, ulong TransparentBytes, IReadOnlyDictionary<int, ulong> NodeBytes)
{
    /// <summary>Reads what the mapping that starts at an address got.</summary>
    /// <param name="address">The mapping's first byte.</param>
    /// <param name="sysfs">Where <c>/proc</c> is.</param>
    /// <returns>What it got, or null where the kernel does not tell.</returns>
    internal static PoolPlacement? Read(HostAddress address, Sysfs sysfs)
    {
        string start = address.Value.ToString("x8", CultureInfo.InvariantCulture);
        ulong pageSize = 4 * ByteSize.KiB;
        var nodes = new Dictionary<int, ulong>();
        bool found = false;
        // "7f12c0000000 prefer:0 file=/memfd:vfiopin-x huge dirty=64 N0=64 kernelpagesize_kB=2048"
        foreach (string line in (sysfs.TryRead("/proc/self/numa_maps") ?? string.Empty).Split('\n'))
        {
            if (!line.StartsWith(start + " ", StringComparison.Ordinal))
            {
                continue;
            }

            found = true;
            string[] words = line.Split(' ');
            foreach (string word in words)
            {
                if (word.StartsWith("kernelpagesize_kB=", StringComparison.Ordinal))
                {
                    pageSize = ulong.Parse(word.AsSpan("kernelpagesize_kB=".Length), CultureInfo.InvariantCulture) * ByteSize.KiB;
                }
            }

            foreach (string word in words)
            {
                if (word.Length > 3 && word[0] == 'N' && word.IndexOf('=', StringComparison.Ordinal) is > 0 and var equals
                    && int.TryParse(word.AsSpan(1, equals - 1), CultureInfo.InvariantCulture, out int node))
                {
                    nodes[node] = ulong.Parse(word.AsSpan(equals + 1), CultureInfo.InvariantCulture) * pageSize;
                }
            }
        }

        ulong transparent = 0;
        bool inside = false;
        foreach (string line in (sysfs.TryRead("/proc/self/smaps") ?? string.Empty).Split('\n'))
        {
            // A mapping's first line starts with its addresses, the others with a name and a colon.
            if (line.Length > 0 && line.IndexOf(':', StringComparison.Ordinal) is var colon && (colon < 0 || line.AsSpan(0, colon).Contains('-')))
            {
                inside = line.StartsWith(start + "-", StringComparison.Ordinal);
                found |= inside;
            }
            else if (inside && (line.StartsWith("AnonHugePages:", StringComparison.Ordinal) || line.StartsWith("ShmemPmdMapped:", StringComparison.Ordinal)))
            {
                transparent += ulong.Parse(line.Split(' ', StringSplitOptions.RemoveEmptyEntries)[1], CultureInfo.InvariantCulture) * ByteSize.KiB;
            }
        }

        return found ? new PoolPlacement(pageSize, transparent, nodes) : null;
    }
}
