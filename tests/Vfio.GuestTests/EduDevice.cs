using System.Diagnostics;

namespace Vfio.GuestTests;

/// <summary>QEMU's edu device, opened through VFIO: a DMA engine between memory and a buffer of its own.</summary>
/// <remarks>Source: QEMU, docs/specs/edu.rst. It reaches 28 bits of address space, so every IOVA must be below 256 MiB, unless the machine's
/// command line says otherwise (<c>dma_mask</c>).</remarks>
internal sealed class EduDevice : IDisposable
{
    // Half of its buffer: QEMU 7.2 ends the machine when a transfer reaches the buffer's last byte.
    public const int TransferSize = 2048;

    private const ulong Identification = 0x00;
    private const ulong Liveness = 0x04;
    private const ulong Status = 0x20;
    private const ulong InterruptStatus = 0x24;
    private const ulong InterruptRaise = 0x60;
    private const ulong InterruptAcknowledge = 0x64;
    private const ulong DmaSource = 0x80;
    private const ulong DmaDestination = 0x88;
    private const ulong DmaCount = 0x90;
    private const ulong DmaCommand = 0x98;
    private const uint Buffer = 0x40000;
    private const uint Start = 1;
    private const uint ToMemory = 2;

    private readonly VfioRegion _registers;

    private EduDevice(VfioContainer container, VfioDevice device)
    {
        Container = container;
        Device = device;
        _registers = device.Bar(0);
    }

    public static PciAddress Address { get; } = PciAddress.Parse("0000:00:05.0");

    public VfioContainer Container { get; }

    public VfioDevice Device { get; }

    public uint Id => _registers.Read32(Identification);

    public bool RegistersAreMapped => _registers.IsMapped;

    public static EduDevice Open() => Open(Address);

    public static EduDevice Open(PciAddress address)
    {
        GuestPci.BindToVfio(address);
        VfioContainer container = VfioContainer.Open();
        VfioDevice device = container.OpenDevice(address);
        device.EnableBusMaster();
        return new EduDevice(container, device);
    }

    public uint Invert(uint value)
    {
        _registers.Write32(Liveness, value);
        return _registers.Read32(Liveness);
    }

    /// <summary>The device reads memory into its buffer.</summary>
    public void ReadFromMemory(Iova source, int bytes) => Transfer(source.Value, Buffer, bytes, Start);

    /// <summary>The device writes its buffer into memory.</summary>
    public void WriteToMemory(Iova destination, int bytes) => Transfer(Buffer, destination.Value, bytes, Start | ToMemory);

    public void RaiseInterrupt(uint value) => _registers.Write32(InterruptRaise, value);

    public uint AcknowledgeInterrupts()
    {
        uint status = _registers.Read32(InterruptStatus);
        _registers.Write32(InterruptAcknowledge, status);
        return status;
    }

    public uint ReadStatus() => _registers.Read32(Status);

    public void Dispose() => Container.Dispose();

    private void Transfer(ulong source, ulong destination, int bytes, uint command)
    {
        _registers.Write32(DmaSource, (uint)source);
        _registers.Write32(DmaDestination, (uint)destination);
        _registers.Write32(DmaCount, (uint)bytes);
        _registers.Write32(DmaCommand, command);
        var clock = Stopwatch.StartNew();
        while ((_registers.Read32(DmaCommand) & Start) != 0)
        {
            Assert.IsLessThan(30, clock.Elapsed.TotalSeconds, "the edu device does not finish its transfer");
            Thread.Yield();
        }
    }
}
