using System.Runtime.CompilerServices;
using Vfio.Linux;

namespace Vfio.Testing;

/// <summary>A PCI device behind a simulated IOMMU. A model derives from it, answers register accesses, and reaches memory by IOVA
/// only; what the IOMMU refuses is recorded and fails the test.</summary>
/// <remarks>Traps are called on the driver's thread, without a lock. A model may have a thread of its own; its DMA is safe on
/// any thread as long as the driver side keeps the memory until the device is quiet.</remarks>
public abstract unsafe class SimPciDevice
{
    /// <summary>The index of configuration space among the regions.</summary>
    protected const int ConfigurationRegion = (int)vfio.VFIO_PCI_CONFIG_REGION_INDEX;

    private readonly SimRegion?[] _bars = new SimRegion?[6];
    private readonly SimInterrupts _interrupts;
    private SimKernel? _kernel;
    private SimGroup? _group;

    protected SimPciDevice(PciAddress address, ushort vendor, ushort device, int classCode, bool hasIntx = true)
    {
        Address = address;
        Vendor = vendor;
        DeviceId = device;
        ClassCode = classCode;
        HasIntx = hasIntx;
        Configuration = new PciConfigurationSpace(vendor, device, classCode, hasIntx);
        _interrupts = new SimInterrupts(this);
    }

    public PciAddress Address { get; }

    public ushort Vendor { get; }

    public ushort DeviceId { get; }

    public int ClassCode { get; }

    public PciConfigurationSpace Configuration { get; }

    public bool HasIntx { get; }

    public int MsiVectors { get; protected set; }

    public int MsixVectors { get; protected set; }

    /// <summary>Whether VFIO_DEVICE_RESET works.</summary>
    public bool CanReset { get; set; } = true;

    /// <summary>The BAR of the MSI-X table, which the kernel marks as mappable all the same; -1 for none.</summary>
    public int MsixBar { get; protected set; } = -1;

    /// <summary>Calls of VFIO_DEVICE_RESET and resets by closing, so far.</summary>
    public int Resets { get; private set; }

    /// <summary>Descriptors that refer to the device.</summary>
    internal int Files { get; set; }

    internal SimInterrupts Interrupts => _interrupts;

    private SimKernel Kernel => _kernel ?? throw new InvalidOperationException($"{Address} is not plugged into a kernel");

    /// <summary>Where an access of the device ends up: one IOMMU look-up.</summary>
    /// <param name="iova">The first byte.</param>
    /// <param name="length">Bytes, at least 1.</param>
    /// <param name="access">What the device is going to do there.</param>
    /// <param name="host">Where the first byte is.</param>
    /// <param name="usable">Bytes from there on that may be touched, 1 to <paramref name="length"/>; the rest may lie elsewhere.</param>
    /// <returns>False when it may not; that is then a recorded fault.</returns>
    public bool Translate(Iova iova, ulong length, DmaAccess access, out HostAddress host, out ulong usable)
    {
        lock (Kernel.Gate)
        {
            return TranslateLocked(iova, length, access, out host, out usable);
        }
    }

    /// <summary>The device reads memory.</summary>
    /// <returns>False when it may not; <paramref name="bytes"/> then holds what it could read before.</returns>
    public bool ReadMemory(Iova iova, Span<byte> bytes)
    {
        lock (Kernel.Gate)
        {
            while (!bytes.IsEmpty)
            {
                if (!TranslateLocked(iova, (ulong)bytes.Length, DmaAccess.Read, out HostAddress host, out ulong usable))
                {
                    return false;
                }

                // SAFETY: the IOMMU has just found these bytes mapped and present, and unmapping takes the same lock.
                new ReadOnlySpan<byte>((void*)host.Value, (int)usable).CopyTo(bytes);
                bytes = bytes[(int)usable..];
                iova += usable;
            }

            return true;
        }
    }

    /// <summary>The device writes memory.</summary>
    /// <returns>False when it may not; what lies before the fault is written.</returns>
    public bool WriteMemory(Iova iova, ReadOnlySpan<byte> bytes)
    {
        lock (Kernel.Gate)
        {
            while (!bytes.IsEmpty)
            {
                if (!TranslateLocked(iova, (ulong)bytes.Length, DmaAccess.Write, out HostAddress host, out ulong usable))
                {
                    return false;
                }

                // SAFETY: as in ReadMemory.
                bytes[..(int)usable].CopyTo(new Span<byte>((void*)host.Value, (int)usable));
                bytes = bytes[(int)usable..];
                iova += usable;
            }

            return true;
        }
    }

    public T Read<T>(Iova iova)
        where T : unmanaged
    {
        T value = default;
        _ = ReadMemory(iova, new Span<byte>(&value, Unsafe.SizeOf<T>()));
        return value;
    }

    public bool Write<T>(Iova iova, T value)
        where T : unmanaged =>
        WriteMemory(iova, new ReadOnlySpan<byte>(&value, Unsafe.SizeOf<T>()));

    /// <summary>Sends a message-signalled interrupt: a write to the real eventfd of the vector, if there is one.</summary>
    public void SendMessage(VfioInterruptKind kind, int vector)
    {
        lock (Kernel.Gate)
        {
            _interrupts.Message(kind, vector);
        }
    }

    /// <summary>Sets the level of the legacy interrupt line.</summary>
    public void SetInterruptLine(bool level)
    {
        lock (Kernel.Gate)
        {
            _interrupts.SetLine(level);
        }
    }

    /// <summary>Whether the driver switched on interrupts of a kind.</summary>
    public bool AreInterruptsOn(VfioInterruptKind kind)
    {
        lock (Kernel.Gate)
        {
            return _interrupts.IsEnabled(kind);
        }
    }

    public SimRegion? Bar(int index) => _bars[index];

    internal void Plug(SimKernel kernel, SimGroup group)
    {
        _kernel = kernel;
        _group = group;
    }

    /// <summary>The kernel that owns it is disposed.</summary>
    internal void Unplug()
    {
        OnUnplug();
        _interrupts.Disable();
        foreach (SimRegion? bar in _bars)
        {
            bar?.Dispose();
        }
    }

    /// <summary>Resets it, as VFIO_DEVICE_RESET does and closing the last descriptor.</summary>
    internal void Reset()
    {
        Resets++;
        OnReset();
    }

    internal uint Trap(int region, ulong offset, int width) => OnRead(region, offset, width);

    internal void Trap(int region, ulong offset, int width, uint value) => OnWrite(region, offset, width, value);

    /// <summary>Adds a BAR.</summary>
    /// <param name="index">0 to 5.</param>
    /// <param name="length">Its bytes.</param>
    /// <param name="areas">Its areas of plain memory; the rest traps.</param>
    protected SimRegion AddBar(int index, ulong length, params (ulong Offset, ulong Length)[] areas)
    {
        ArgumentNullException.ThrowIfNull(areas);
        var region = new SimRegion(length, areas);
        _bars[index] = region;
        return region;
    }

    /// <summary>The driver reads a register that is not memory.</summary>
    /// <param name="region">The BAR.</param>
    /// <param name="offset">Bytes from its start.</param>
    /// <param name="width">1, 2 or 4 bytes.</param>
    /// <returns>The value.</returns>
    protected virtual uint OnRead(int region, ulong offset, int width) => uint.MaxValue;

    /// <summary>The driver writes a register that is not memory.</summary>
    /// <param name="region">The BAR.</param>
    /// <param name="offset">Bytes from its start.</param>
    /// <param name="width">1, 2 or 4 bytes.</param>
    /// <param name="value">The value.</param>
    protected virtual void OnWrite(int region, ulong offset, int width, uint value)
    {
    }

    /// <summary>The device is reset: by VFIO_DEVICE_RESET, or because its last descriptor was closed.</summary>
    protected virtual void OnReset()
    {
    }

    /// <summary>The machine goes away: a model ends its thread.</summary>
    protected virtual void OnUnplug()
    {
    }

    private bool TranslateLocked(Iova iova, ulong length, DmaAccess access, out HostAddress host, out ulong usable)
    {
        host = default;
        usable = 0;
        string? reason = !Configuration.IsBusMaster ? "its bus mastering is off"
            : _group?.Iommu is not { } iommu ? "its group is in no container with an IOMMU"
            : iommu.Translate(iova, length, access, out host, out usable);
        if (reason is not null)
        {
            Kernel.Record(new DmaFault(Address, iova, length, access, reason));
        }

        return reason is null;
    }
}
