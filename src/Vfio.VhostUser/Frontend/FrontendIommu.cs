namespace Vfio.VhostUser;

/// <summary>The IOMMU of a front-end: what the driver has mapped, in pages of 4 KiB, 2 MiB and 1 GiB. It answers a back-end's
/// misses and knows nothing of what was unmapped.</summary>
/// <remarks>Thread-safe.</remarks>
public sealed class FrontendIommu
{
    private static readonly int[] Shifts = [12, 21, 30];

    private readonly Lock _changing = new();
    private readonly Dictionary<(int Shift, ulong Page), (FrontendAddress Address, DmaAccess Access)> _pages = [];

    /// <summary>Lets the device use a page.</summary>
    /// <param name="page">4 KiB, 2 MiB or 1 GiB, aligned to its length.</param>
    /// <param name="address">Where it is in the front-end, aligned to 4 KiB.</param>
    /// <param name="access">What the device may do there.</param>
    /// <exception cref="ArgumentException">It is no such page, or is mapped already.</exception>
    public void Map(IovaRange page, FrontendAddress address, DmaAccess access)
    {
        int shift = ShiftOf(page);
        lock (_changing)
        {
            if (!_pages.TryAdd((shift, page.First.Value >> shift), (address, access)))
            {
                throw new ArgumentException($"{page} is mapped already", nameof(page));
            }
        }
    }

    /// <summary>Takes a page away again. The back-end may still use it until its IOTLB was invalidated.</summary>
    /// <param name="page">What was mapped.</param>
    /// <exception cref="ArgumentException">It is not mapped.</exception>
    public void Unmap(IovaRange page)
    {
        int shift = ShiftOf(page);
        lock (_changing)
        {
            if (!_pages.Remove((shift, page.First.Value >> shift)))
            {
                throw new ArgumentException($"{page} is not mapped", nameof(page));
            }
        }
    }

    /// <summary>Answers a miss while nothing can be unmapped: what is told before an unmap is told before its invalidation.</summary>
    /// <param name="address">The address that missed.</param>
    /// <param name="answer">Gets the page around it; not called when there is none.</param>
    /// <returns>Whether there is one.</returns>
    internal bool Translate(Iova address, Action<IovaRange, FrontendAddress, DmaAccess> answer)
    {
        lock (_changing)
        {
            foreach (int shift in Shifts)
            {
                ulong page = address.Value >> shift;
                if (_pages.TryGetValue((shift, page), out (FrontendAddress Address, DmaAccess Access) found))
                {
                    answer(IovaRange.Of(new Iova(page << shift), 1ul << shift), found.Address, found.Access);
                    return true;
                }
            }

            return false;
        }
    }

    private static int ShiftOf(IovaRange page)
    {
        foreach (int shift in Shifts)
        {
            if (page.Last - page.First == (1ul << shift) - 1 && page.First.IsAligned(1ul << shift))
            {
                return shift;
            }
        }

        throw new ArgumentException($"{page} is no aligned page of 4 KiB, 2 MiB or 1 GiB", nameof(page));
    }
}
