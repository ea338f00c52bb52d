using Vfio.Linux;

namespace Vfio;

/// <summary>A device's interrupts of one kind, switched on: an eventfd for each vector.</summary>
/// <remarks>Waiting is thread-safe. Disposing switches the interrupts off. Source: <c>drivers/vfio/pci/vfio_pci_intrs.c</c>.</remarks>
public sealed unsafe class VfioInterrupts : IDisposable
{
    private readonly IKernel _kernel;
    private readonly VfioDevice _device;
    private readonly EventFd[] _vectors;

    private VfioInterrupts(IKernel kernel, VfioDevice device, VfioInterruptKind kind, EventFd[] vectors)
    {
        _kernel = kernel;
        _device = device;
        _vectors = vectors;
        Kind = kind;
    }

    /// <summary>The kind of interrupt.</summary>
    public VfioInterruptKind Kind { get; }

    /// <summary>The eventfds, by vector.</summary>
    public IReadOnlyList<EventFd> Vectors => _vectors;

    /// <summary>Lets the legacy line fire again; the kernel masked it when it last did. Nothing to do for the other kinds.</summary>
    /// <exception cref="LinuxException">VFIO_DEVICE_SET_IRQS failed.</exception>
    public void Unmask()
    {
        if (Kind == VfioInterruptKind.Intx)
        {
            VfioContainer.Check(Set(vfio.VFIO_IRQ_SET_DATA_NONE | vfio.VFIO_IRQ_SET_ACTION_UNMASK, 1, []),
                "VFIO_DEVICE_SET_IRQS", $"{_device.Address} {Kind} unmask");
        }
    }

    /// <inheritdoc/>
    /// <exception cref="LinuxException">VFIO_DEVICE_SET_IRQS failed; closing the device switches them off.</exception>
    public void Dispose() =>
        VfioContainer.Check(TrySwitchOff(), "VFIO_DEVICE_SET_IRQS", $"{_device.Address} {Kind} off");

    internal bool IsDisposed { get; private set; }

    /// <summary>Switches them off and closes the vectors, once.</summary>
    /// <returns>A negated errno when the kernel would not switch them off.</returns>
    internal int TrySwitchOff()
    {
        if (IsDisposed)
        {
            return 0;
        }

        IsDisposed = true;
        // A count of 0 switches the whole kind off.
        int result = _device.Descriptor.IsClosed ? 0 : Set(vfio.VFIO_IRQ_SET_DATA_NONE | vfio.VFIO_IRQ_SET_ACTION_TRIGGER, 0, []);
        foreach (EventFd vector in _vectors)
        {
            vector.Dispose();
        }

        return result;
    }

    internal static VfioInterrupts Enable(IKernel kernel, VfioDevice device, VfioInterruptKind kind, int count)
    {
        int available = device.CountInterrupts(kind);
        if (count > available)
        {
            throw VfioFailures.Exception("VFIO_DEVICE_SET_IRQS", Errno.EINVAL,
                $"{device.Address}: {count} vectors of {kind} asked for, {available} there");
        }

        var vectors = new EventFd[count];
        try
        {
            int[] descriptors = new int[count];
            for (int i = 0; i < count; i++)
            {
                vectors[i] = new EventFd();
                descriptors[i] = vectors[i].Descriptor.Number;
            }

            var interrupts = new VfioInterrupts(kernel, device, kind, vectors);
            VfioContainer.Check(
                interrupts.Set(vfio.VFIO_IRQ_SET_DATA_EVENTFD | vfio.VFIO_IRQ_SET_ACTION_TRIGGER, (uint)count, descriptors),
                "VFIO_DEVICE_SET_IRQS", $"{device.Address}: {count} vectors of {kind}");
            return interrupts;
        }
        catch
        {
            foreach (EventFd? vector in vectors)
            {
                vector?.Dispose();
            }

            throw;
        }
    }

    private int Set(uint flags, uint count, ReadOnlySpan<int> descriptors)
    {
        int size = sizeof(vfio_irq_set) + (descriptors.Length * sizeof(int));
        byte[] buffer = new byte[size];
        descriptors.CopyTo(System.Runtime.InteropServices.MemoryMarshal.Cast<byte, int>(buffer.AsSpan(sizeof(vfio_irq_set))));
        // SAFETY: the kernel reads argsz bytes, which is the array's length; it is pinned for the call.
        fixed (byte* pointer = buffer)
        {
            *(vfio_irq_set*)pointer = new vfio_irq_set { argsz = (uint)size, flags = flags, index = (uint)Kind, count = count };
            return _kernel.Ioctl(_device.Descriptor.Number, vfio.VFIO_DEVICE_SET_IRQS, pointer);
        }
    }
}
