using System.Buffers.Binary;
using Vfio.Linux;

namespace Vfio.Testing;

/// <summary>A device's configuration space: 4096 bytes of which few are writable, with a list of capabilities.</summary>
public sealed class PciConfigurationSpace
{
    private const int Size = 4096;
    private const int ClassCode = 0x09;
    private const int SubsystemId = 0x2e;
    private const int InterruptPin = 0x3d;
    private const int CacheLineSize = 0x0c;
    private const int InterruptLine = 0x3c;
    private const ushort WritableCommand = 0x0547;

    private readonly byte[] _bytes = new byte[Size];
    private readonly byte[] _writable = new byte[Size];
    private int _next = 0x40;
    private int _last;

    internal PciConfigurationSpace(ushort vendor, ushort device, int classCode, bool hasIntx)
    {
        Write16(pci_regs.PCI_VENDOR_ID, vendor);
        Write16(pci_regs.PCI_DEVICE_ID, device);
        Write16(SubsystemId, device);
        // Three bytes: programming interface, subclass, class.
        for (int i = 0; i < 3; i++)
        {
            _bytes[ClassCode + i] = (byte)((classCode >> (8 * i)) & 0xff);
        }

        _bytes[InterruptPin] = hasIntx ? (byte)1 : (byte)0;
        BinaryPrimitives.WriteUInt16LittleEndian(_writable.AsSpan(pci_regs.PCI_COMMAND), WritableCommand);
        _writable[CacheLineSize] = 0xff;
        _writable[InterruptLine] = 0xff;
        SetInitialCommand();
    }

    public static int Length => Size;

    public bool IsMemoryEnabled => (Read16(pci_regs.PCI_COMMAND) & pci_regs.PCI_COMMAND_MEMORY) != 0;

    public bool IsBusMaster => (Read16(pci_regs.PCI_COMMAND) & pci_regs.PCI_COMMAND_MASTER) != 0;

    /// <summary>Adds a capability to the list.</summary>
    /// <param name="id">Its id.</param>
    /// <param name="body">What follows its id and link.</param>
    /// <returns>Where it starts.</returns>
    public int AddCapability(byte id, ReadOnlySpan<byte> body)
    {
        int start = _next;
        _bytes[start] = id;
        body.CopyTo(_bytes.AsSpan(start + 2));
        _bytes[_last == 0 ? pci_regs.PCI_CAPABILITY_LIST : _last + 1] = (byte)start;
        _bytes[pci_regs.PCI_STATUS] |= pci_regs.PCI_STATUS_CAP_LIST;
        _last = start;
        _next = (start + 2 + body.Length + 3) & ~3;
        return start;
    }

    public ushort Read16(int offset) => BinaryPrimitives.ReadUInt16LittleEndian(_bytes.AsSpan(offset));

    public void Write16(int offset, ushort value) => BinaryPrimitives.WriteUInt16LittleEndian(_bytes.AsSpan(offset), value);

    internal void Read(int offset, Span<byte> bytes) => _bytes.AsSpan(offset, bytes.Length).CopyTo(bytes);

    internal void Write(int offset, ReadOnlySpan<byte> bytes)
    {
        for (int i = 0; i < bytes.Length; i++)
        {
            byte writable = _writable[offset + i];
            _bytes[offset + i] = (byte)((_bytes[offset + i] & ~writable) | (bytes[i] & writable));
        }
    }

    /// <summary>vfio_pci_core_enable: memory answers, the device may not yet reach out.</summary>
    internal void SetInitialCommand() => Write16(pci_regs.PCI_COMMAND, pci_regs.PCI_COMMAND_MEMORY);
}
