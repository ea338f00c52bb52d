using Vfio.Virtio;

namespace Vfio.VhostUser;

/// <summary>Where a ring is in this process.</summary>
/// <param name="Addresses">Its parts.</param>
/// <param name="Written">The pieces that the device writes, as far as the log is told by where they are.</param>
/// <param name="WrittenAtLog">Bytes that the device writes and the front-end has told where to log; 0 behind an IOMMU.</param>
internal sealed record RingPlace(RingAddresses Addresses, List<(HostAddress Address, ulong Length)> Written, uint WrittenAtLog)
{
    /// <summary>The parts that the device writes, as the guest numbers them.</summary>
    // "log_guest_addr should be used to calculate the log offset" of the used ring. For a packed ring nothing says what that address
    // covers, while the device writes the descriptor ring as well: those pages are marked by where they are. Behind an IOMMU the
    // address may be an IOVA (as DPDK takes it), and the pages need not be neighbours: there all are.
    public IReadOnlyList<(GuestPhysicalAddress Address, ulong Length)> LoggedAreas(GuestPhysicalAddress log, GuestMemory memory)
    {
        List<(GuestPhysicalAddress Address, ulong Length)> logged = WrittenAtLog == 0 ? [] : [(log, WrittenAtLog)];
        foreach ((HostAddress address, ulong length) in Written)
        {
            if (memory.TryFind(address, out GuestPhysicalAddress place))
            {
                logged.Add((place, length));
            }
        }

        return logged;
    }
}
