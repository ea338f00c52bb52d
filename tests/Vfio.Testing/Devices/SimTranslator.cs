using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.Testing;

/// <summary>A simulated virtio device's own view of memory: what the IOMMU lets it reach.</summary>
internal readonly struct SimTranslator(SimPciDevice device) : ITranslator
{
    public TranslationStatus Translate(
        BusAddress address, uint length, DeviceAccess access, out HostAddress host, out uint usable)
    {
        bool found = device.Translate(
            new Iova(address.Value), length, access == DeviceAccess.Write ? DmaAccess.Write : DmaAccess.Read, out host, out ulong bytes);
        usable = (uint)Math.Min(bytes, length);
        return found ? TranslationStatus.Translated : TranslationStatus.Denied;
    }

    public bool TryTranslate(BusAddress address, uint length, DeviceAccess access, out HostAddress host)
    {
        host = default;
        return false;
    }

    public void CountAtHand(int times)
    {
    }

    /// <summary>The device's side of a ring that its driver laid out.</summary>
    /// <param name="size">Entries.</param>
    /// <param name="features">What was negotiated.</param>
    /// <param name="descriptors">Where the driver says that the descriptor area is.</param>
    /// <param name="driver">Where it says that the driver area is.</param>
    /// <param name="ownArea">Where it says that the device area is.</param>
    public DeviceQueue Open(int size, VirtioFeatures features, Iova descriptors, Iova driver, Iova ownArea)
    {
        var ring = new RingAddresses(
            Area(descriptors, RingAddresses.DescriptorBytes(size), DmaAccess.ReadWrite),
            Area(driver, RingAddresses.DriverBytes(size, features), DmaAccess.Read),
            Area(ownArea, RingAddresses.DeviceBytes(size, features), DmaAccess.ReadWrite));
        return DeviceQueue.Create(size, ring, features);
    }

    // A model may look at the ring while bus mastering is off: it only remembers where it is.
    private HostAddress Area(Iova iova, uint bytes, DmaAccess access)
    {
        ushort command = device.Configuration.Read16(pci_regs.PCI_COMMAND);
        device.Configuration.Write16(pci_regs.PCI_COMMAND, (ushort)(command | pci_regs.PCI_COMMAND_MASTER));
        bool found = device.Translate(iova, bytes, access, out HostAddress host, out ulong usable);
        device.Configuration.Write16(pci_regs.PCI_COMMAND, command);
        return found && usable >= bytes ? host : throw new InvalidOperationException($"the ring at {iova} is not mapped whole");
    }
}
