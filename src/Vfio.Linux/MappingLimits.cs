using System.Globalization;

namespace Vfio.Linux;

/// <summary>How much a peer's memory may take of what the process has only so much of.</summary>
/// <param name="Bytes">Address space.</param>
/// <param name="Mappings">Mappings of the kernel's (vm.max_map_count); one peer's file takes 3, with its guards.</param>
public readonly record struct MappingLimits(ulong Bytes, int Mappings)
{
    // Half of the 128 TiB that a process can address on x86-64 and, at the least, on arm64.
    private const ulong MostAddressSpace = 64ul << 40;

    // include/linux/mm.h, DEFAULT_MAX_MAP_COUNT.
    private const int DefaultMaxMapCount = 65530;

    /// <summary>For all peers together: half of what the process may have, so that the other half is left to the runtime.</summary>
    public static MappingLimits Process { get; } = new(AddressSpace() / 2, MaxMapCount() / 2);

    /// <summary>For one peer: a quarter of that.</summary>
    public static MappingLimits Peer { get; } = new(Process.Bytes / 4, Process.Mappings / 4);

    private static unsafe ulong AddressSpace()
    {
        rlimit limit;
        // SAFETY: a local of the size that the call fills.
        bool known = LibC.getrlimit(Resource.RLIMIT_AS, &limit) == 0;
        return known ? Math.Min(limit.rlim_cur, 2 * MostAddressSpace) : 2 * MostAddressSpace;
    }

    private static int MaxMapCount()
    {
        const string Path = "/proc/sys/vm/max_map_count";
        return File.Exists(Path) && int.TryParse(File.ReadAllText(Path), NumberStyles.None | NumberStyles.AllowTrailingWhite, CultureInfo.InvariantCulture, out int most)
            ? most : DefaultMaxMapCount;
    }
}
