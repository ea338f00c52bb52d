namespace Vfio.VhostUser;

/// <summary>The memory of one guest at one time: an immutable set of regions. A change of the memory table makes a new one;
/// regions are unmapped only after a grace period.</summary>
/// <remarks>Thread-safe. Does not own its regions.</remarks>
public sealed class GuestMemory
{
    private readonly AddressWindow[] _byGuest;
    private readonly GuestMemoryRegion[] _regions;

    private GuestMemory(GuestMemoryRegion[] regions)
    {
        _regions = regions;
        _byGuest = [.. regions.Select(r => new AddressWindow(r.Guest.Value, r.Length, r.Host.Value))];
    }

    /// <summary>No memory.</summary>
    public static GuestMemory Empty { get; } = new([]);

    /// <summary>The regions, by guest physical address.</summary>
    public IReadOnlyList<GuestMemoryRegion> Regions => _regions;

    /// <summary>Makes the set.</summary>
    /// <param name="regions">The regions, in any order.</param>
    /// <returns>The set.</returns>
    /// <exception cref="VhostUserProtocolException">Two overlap, as the guest or as the front-end numbers them.</exception>
    public static GuestMemory Of(IEnumerable<GuestMemoryRegion> regions)
    {
        GuestMemoryRegion[] sorted = [.. regions.OrderBy(r => r.Guest)];
        for (int i = 0; i < sorted.Length; i++)
        {
            for (int j = i + 1; j < sorted.Length; j++)
            {
                if (sorted[i].Overlaps(sorted[j]))
                {
                    throw new VhostUserProtocolException($"memory regions {sorted[i]} and {sorted[j]} overlap");
                }
            }
        }

        return new GuestMemory(sorted);
    }

    /// <summary>Finds a range of the front-end's addresses here, in one piece.</summary>
    /// <param name="address">Its first byte.</param>
    /// <param name="length">Bytes, at least 1.</param>
    /// <param name="host">Where it is.</param>
    /// <returns>False when it is not wholly inside one region.</returns>
    public bool TryFind(FrontendAddress address, ulong length, out HostAddress host)
    {
        foreach (GuestMemoryRegion region in _regions)
        {
            ulong offset = unchecked(address.Value - region.Frontend.Value);
            if (offset < region.Length && length <= region.Length - offset)
            {
                host = region.Host + offset;
                return true;
            }
        }

        host = default;
        return false;
    }

    /// <summary>Finds as much of a range of the front-end's addresses as lies here in one piece.</summary>
    /// <param name="address">Its first byte.</param>
    /// <param name="span">How far its last byte is from the first.</param>
    /// <param name="host">Where the first byte is.</param>
    /// <param name="found">How far the last byte of the piece is from the first; at most <paramref name="span"/>.</param>
    /// <returns>False when the first byte is in no region.</returns>
    internal bool TryFindPart(FrontendAddress address, ulong span, out HostAddress host, out ulong found)
    {
        foreach (GuestMemoryRegion region in _regions)
        {
            ulong offset = unchecked(address.Value - region.Frontend.Value);
            if (offset < region.Length)
            {
                host = region.Host + offset;
                found = Math.Min(span, region.Length - offset - 1);
                return true;
            }
        }

        host = default;
        found = 0;
        return false;
    }

    /// <summary>Finds out where the guest has a byte that lies here.</summary>
    /// <param name="host">The byte.</param>
    /// <param name="address">Its address for the guest.</param>
    /// <returns>False when no region holds it.</returns>
    public bool TryFind(HostAddress host, out GuestPhysicalAddress address)
    {
        foreach (GuestMemoryRegion region in _regions)
        {
            ulong offset = unchecked(host.Value - region.Host.Value);
            if (offset < region.Length)
            {
                address = region.Guest + offset;
                return true;
            }
        }

        address = default;
        return false;
    }

    // The last window that starts at or below the address holds it, or none does.
    internal bool TryFind(GuestPhysicalAddress address, out AddressWindow found)
    {
        int low = 0;
        int high = _byGuest.Length - 1;
        while (low <= high)
        {
            int middle = (low + high) >>> 1;
            if (_byGuest[middle].First <= address.Value)
            {
                low = middle + 1;
            }
            else
            {
                high = middle - 1;
            }
        }

        found = high >= 0 ? _byGuest[high] : default;
        return unchecked(address.Value - found.First) < found.Length;
    }
}
