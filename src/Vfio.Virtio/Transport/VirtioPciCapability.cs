using Vfio.Linux;

namespace Vfio.Virtio;

/// <summary>Where a virtio structure is: a piece of one of the device's base address registers (virtio 1.3, 4.1.4 "Virtio
/// Structure PCI Capabilities").</summary>
/// <param name="Type">VIRTIO_PCI_CAP_*.</param>
/// <param name="Region">The base address register.</param>
/// <param name="Offset">Bytes from the register's start.</param>
/// <param name="Length">Bytes.</param>
/// <param name="NotifyMultiplier">For the notify structure: bytes from one queue's doorbell to the next.</param>
internal sealed record VirtioPciCapability(byte Type, VfioRegion Region, ulong Offset, uint Length, uint NotifyMultiplier)
{
    private const int HeaderBytes = 16;
    private const int ConfigurationBytes = 256;

    /// <summary>Walks the capability list. A structure that does not lie inside its register is passed over, as the
    /// specification wants of one that a driver does not understand; a list that loops or leaves the configuration space ends.</summary>
    /// <param name="device">The device.</param>
    /// <returns>The structures, in the device's order of preference.</returns>
    public static IReadOnlyList<VirtioPciCapability> ReadAll(VfioDevice device)
    {
        var found = new List<VirtioPciCapability>();
        VfioRegion configuration = device.Configuration;
        if ((configuration.Read16(pci_regs.PCI_STATUS) & pci_regs.PCI_STATUS_CAP_LIST) == 0)
        {
            return found;
        }

        ulong position = configuration.Read8(pci_regs.PCI_CAPABILITY_LIST) & ~3UL;
        // Capabilities are at least 4 bytes and do not overlap, so there are no more than this.
        for (int left = ConfigurationBytes / 4; left > 0 && position >= 0x40; left--)
        {
            if (configuration.Read8(position) == pci_regs.PCI_CAP_ID_VNDR && TryRead(device, position) is { } capability)
            {
                found.Add(capability);
            }

            position = configuration.Read8(position + virtio_pci.VIRTIO_PCI_CAP_NEXT) & ~3UL;
        }

        return found;
    }

    private static VirtioPciCapability? TryRead(VfioDevice device, ulong position)
    {
        VfioRegion configuration = device.Configuration;
        byte length = configuration.Read8(position + virtio_pci.VIRTIO_PCI_CAP_LEN);
        byte type = configuration.Read8(position + virtio_pci.VIRTIO_PCI_CAP_CFG_TYPE);
        bool notify = type == virtio_pci.VIRTIO_PCI_CAP_NOTIFY_CFG;
        int needed = HeaderBytes + (notify ? sizeof(uint) : 0);
        if (length < needed || position + (ulong)needed > ConfigurationBytes)
        {
            return null;
        }

        byte bar = configuration.Read8(position + virtio_pci.VIRTIO_PCI_CAP_BAR);
        ulong offset = configuration.Read32(position + virtio_pci.VIRTIO_PCI_CAP_OFFSET);
        uint size = configuration.Read32(position + virtio_pci.VIRTIO_PCI_CAP_LENGTH);
        if (bar > vfio.VFIO_PCI_BAR5_REGION_INDEX
            || type is < virtio_pci.VIRTIO_PCI_CAP_COMMON_CFG or > virtio_pci.VIRTIO_PCI_CAP_DEVICE_CFG)
        {
            return null;
        }

        VfioRegion region = device.Bar(bar);
        // virtio 1.3, 4.1.4.3.1 and 4.1.4.4.1: offsets are aligned to 4, the notify structure's to 2, the ISR's to anything.
        ulong alignment = type switch
        {
            virtio_pci.VIRTIO_PCI_CAP_NOTIFY_CFG => 2,
            virtio_pci.VIRTIO_PCI_CAP_ISR_CFG => 1,
            _ => 4,
        };
        return offset % alignment == 0 && offset <= region.Length && size <= region.Length - offset
            ? new VirtioPciCapability(
                type, region, offset, size, notify ? configuration.Read32(position + virtio_pci.VIRTIO_PCI_NOTIFY_CAP_MULT) : 0)
            : null;
    }
}
