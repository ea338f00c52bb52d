namespace Vfio.Testing;

/// <summary>A device without registers of its own: 4 KiB of memory behind BAR 0, one MSI vector, the legacy line. The test makes
/// it reach for memory.</summary>
public sealed class SimPlainDevice : SimPciDevice
{
    private const ulong RegisterBytes = 4096;

    public SimPlainDevice(PciAddress address)
        : base(address, vendor: 0x1234, device: 0x11e8, classCode: 0x00ff00)
    {
        MsiVectors = 1;
        AddBar(0, RegisterBytes, (0, RegisterBytes));
    }
}
