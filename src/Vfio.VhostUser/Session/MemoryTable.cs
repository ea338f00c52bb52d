using Vfio.Linux;

namespace Vfio.VhostUser;

/// <summary>Owns the regions of one session. A change is prepared first, which may fail, and then made while no ring runs.</summary>
internal sealed class MemoryTable(PeerMappings mappings) : IDisposable
{
    /// <summary>What VHOST_USER_GET_MAX_MEM_SLOTS says: the most that QEMU plugs in.</summary>
    public const int MaxSlots = 509;

    public GuestMemory Current { get; private set; } = GuestMemory.Empty;

    /// <summary>Maps all regions of a table, or none.</summary>
    public GuestMemory Prepare(ReadOnlySpan<RegionDescription> regions, ReceivedDescriptors files)
    {
        var mapped = new List<GuestMemoryRegion>();
        try
        {
            for (int i = 0; i < regions.Length; i++)
            {
                using FileDescriptor file = files.Take(i);
                mapped.Add(Map(regions[i], file));
            }

            return GuestMemory.Of(mapped);
        }
        catch
        {
            mapped.ForEach(r => r.Dispose());
            throw;
        }
    }

    /// <summary>The current regions and more, which are unmapped again when they do not fit in.</summary>
    public GuestMemory PrepareWith(GuestMemory added)
    {
        try
        {
            return Current.Regions.Count + added.Regions.Count <= MaxSlots
                ? GuestMemory.Of(Current.Regions.Concat(added.Regions))
                : throw new VhostUserProtocolException($"there are {MaxSlots} memory regions already");
        }
        catch
        {
            foreach (GuestMemoryRegion region in added.Regions)
            {
                region.Dispose();
            }

            throw;
        }
    }

    /// <summary>The current regions without one.</summary>
    public GuestMemory PrepareWithout(RegionDescription removed) =>
        GuestMemory.Of(Current.Regions.Where(r => !IsSame(r, removed))) is var rest && rest.Regions.Count < Current.Regions.Count
            ? rest
            : throw new VhostUserProtocolException(
                $"no memory region at {removed.GuestAddress} of {removed.Size} bytes to remove");

    /// <summary>Makes the change. No ring runs, so nobody holds a pointer into what is unmapped.</summary>
    public void Replace(GuestMemory next)
    {
        GuestMemory former = Current;
        Current = next;
        foreach (GuestMemoryRegion region in former.Regions)
        {
            if (!next.Regions.Contains(region))
            {
                region.Dispose();
            }
        }
    }

    public void Dispose() => Replace(GuestMemory.Empty);

    private GuestMemoryRegion Map(RegionDescription region, FileDescriptor file) =>
        GuestMemoryRegion.Map(region.GuestAddress, region.UserAddress, region.Size, file, new FileOffset(region.MmapOffset), mappings);

    // "Identified by its guest address, user address and size. The mmap offset is ignored."
    private static bool IsSame(GuestMemoryRegion region, RegionDescription other) =>
        region.Guest == other.GuestAddress && region.Frontend == other.UserAddress && region.Length == other.Size;
}
