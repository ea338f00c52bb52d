using Vfio.Linux;

namespace Vfio.Service;

/// <summary>A pool that is wanted: the parameters of <c>pool.plan</c> and <c>pool.create</c>.</summary>
/// <param name="Name">Its name: letters, digits, dots, dashes and underscores, at most 64.</param>
/// <param name="Size">Bytes, a multiple of the page size.</param>
public sealed record PoolRequest(string Name, ulong Size)
{
    /// <summary>The most threads that populate one pool.</summary>
    public const int MostPopulateThreads = 256;

    private const int LongestName = 64;

    /// <summary>The pages to make it of, by name (<c>1GiB</c>, <c>2MiB</c>, <c>thp</c>, <c>4KiB</c>); the first that can be had.</summary>
    public IReadOnlyList<string> PageSizes { get; init; } = ["2MiB"];

    /// <summary>The devices that shall reach it, each on vfio-pci.</summary>
    public IReadOnlyList<PciAddress> Devices { get; init; } = [];

    /// <summary>Bytes that shall be possible to free alone; 0 for as few maps as can be.</summary>
    public ulong Grain { get; init; }

    /// <summary>Bytes of the buffers that are lent out of it, a power of two.</summary>
    public int BufferSize { get; init; } = 64 * 1024;

    /// <summary>The NUMA node to take pages from, or null for that of the first device.</summary>
    public int? Node { get; init; }

    /// <summary>Threads that populate the memory, at most <see cref="MostPopulateThreads"/>; 0 for one per processor.</summary>
    public int PopulateThreads { get; init; }

    /// <summary>Checks what the pool itself does not, and makes its options.</summary>
    internal PinnedPoolOptions ToOptions(PciBus bus, IProgress<PopulateProgress>? progress)
    {
        if (Name.Length is 0 or > LongestName || !Name.All(c => char.IsAsciiLetterOrDigit(c) || c is '.' or '-' or '_'))
        {
            throw Invalid($"\"{Name}\"", "a pool's name has 1 to 64 letters, digits, dots, dashes or underscores", "choose another name");
        }

        var backings = new List<MemoryBacking>();
        foreach (string size in PageSizes)
        {
            if (!MemoryBackings.TryParse(size, out MemoryBacking backing))
            {
                throw Invalid($"page size {size}", "there are no such pages", "use 1GiB, 2MiB, thp or 4KiB, or a list of them");
            }

            backings.Add(backing);
        }

        if (backings.Count == 0)
        {
            throw Invalid("no page size", "a pool is made of pages of some size", "use 1GiB, 2MiB, thp or 4KiB");
        }

        if (BufferSize is < 64 or > 1 << 30 || !int.IsPow2(BufferSize))
        {
            throw Invalid($"buffers of {BufferSize} bytes", "a buffer's size is a power of two from 64 bytes to 1 GiB", "choose another size");
        }

        if (Grain != 0 && (Grain < 4096 || !ulong.IsPow2(Grain)))
        {
            throw Invalid($"grain of {Grain} bytes", "a grain is a power of two of at least 4 KiB", "choose another grain");
        }

        DemandThreads(PopulateThreads);
        return new PinnedPoolOptions
        {
            Name = Name,
            Size = Size,
            Backings = backings,
            BufferSize = BufferSize,
            Grain = Grain,
            Node = Node ?? (Devices.Count > 0 ? bus.Get(Devices[0]).NumaNode : null),
            PopulateThreads = PopulateThreads,
            Progress = progress,
        };
    }

    internal static void DemandThreads(int populateThreads)
    {
        if (populateThreads is < 0 or > MostPopulateThreads)
        {
            throw Invalid($"{populateThreads} threads to populate", $"memory is populated by 1 to {MostPopulateThreads} threads", "choose another number, or none");
        }
    }

    private static LinuxException Invalid(string detail, string cause, string cure) => new("pool", Errno.EINVAL, detail, cause, cure);
}
