using Vfio.Virtio;

namespace Vfio.VhostUser;

/// <summary>Where a ring is in this process.</summary>
/// <param name="Addresses">Its parts.</param>
/// <param name="Descriptors">The pieces of its descriptor area where the device writes there (packed); else none.</param>
/// <param name="DeviceBytes">Bytes of its device area.</param>
internal sealed record RingPlace(RingAddresses Addresses, List<(HostAddress Address, ulong Length)> Descriptors, uint DeviceBytes)
{
    /// <summary>The parts that the device writes, as the guest numbers them.</summary>
    // "log_guest_addr should be used to calculate the log offset" of the used ring. For a packed ring nothing says what that
    // address covers, while the device writes the descriptor ring as well: those pages are marked by where they are.
    public IReadOnlyList<(GuestPhysicalAddress Address, ulong Length)> Written(GuestPhysicalAddress used, GuestMemory memory)
    {
        List<(GuestPhysicalAddress Address, ulong Length)> written = [(used, DeviceBytes)];
        foreach ((HostAddress address, ulong length) in Descriptors)
        {
            if (memory.TryFind(address, out GuestPhysicalAddress place))
            {
                written.Add((place, length));
            }
        }

        return written;
    }
}
