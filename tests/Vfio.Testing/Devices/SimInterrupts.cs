using System.Runtime.InteropServices;
using Vfio.Linux;

namespace Vfio.Testing;

/// <summary>A device's interrupts (<c>drivers/vfio/pci/vfio_pci_intrs.c</c>): real eventfds, the legacy line masked when it fires.</summary>
internal sealed unsafe class SimInterrupts(SimPciDevice device)
{
    public const int Kinds = 5;

    private const int None = -1;
    private const int RequestIndex = 4;
    private const uint DataTypes =
        vfio.VFIO_IRQ_SET_DATA_NONE | vfio.VFIO_IRQ_SET_DATA_BOOL | vfio.VFIO_IRQ_SET_DATA_EVENTFD;

    private const uint Actions =
        vfio.VFIO_IRQ_SET_ACTION_MASK | vfio.VFIO_IRQ_SET_ACTION_UNMASK | vfio.VFIO_IRQ_SET_ACTION_TRIGGER;

    private int _kind = None;
    private int[] _triggers = [];
    private bool _isMasked;
    private bool _line;

    public bool IsEnabled(VfioInterruptKind kind) => _kind == (int)kind;

    /// <summary>vfio_pci_get_irq_count.</summary>
    public uint Count(uint index) => index switch
    {
        vfio.VFIO_PCI_INTX_IRQ_INDEX => device.HasIntx ? 1u : 0,
        vfio.VFIO_PCI_MSI_IRQ_INDEX => (uint)device.MsiVectors,
        vfio.VFIO_PCI_MSIX_IRQ_INDEX => (uint)device.MsixVectors,
        RequestIndex => 1,
        _ => 0,
    };

    /// <summary>A message-signalled interrupt; lost where the vector has no eventfd.</summary>
    public void Message(VfioInterruptKind kind, int vector)
    {
        if (IsEnabled(kind) && vector < _triggers.Length)
        {
            Signal(_triggers[vector]);
        }
    }

    /// <summary>The legacy line's level.</summary>
    public void SetLine(bool level)
    {
        _line = level;
        FireLine();
    }

    public long Set(void* argument)
    {
        if (!UserMemory.TryRead(argument, out vfio_irq_set set))
        {
            return -(long)Errno.EFAULT;
        }

        uint available = Count(set.index);
        if (set.argsz < sizeof(vfio_irq_set) || set.index >= Kinds || set.count >= uint.MaxValue - set.start
            || (set.flags & ~(DataTypes | Actions)) != 0
            || set.start >= available || set.start + set.count > available)
        {
            return -(long)Errno.EINVAL;
        }

        uint width = (set.flags & DataTypes) switch
        {
            vfio.VFIO_IRQ_SET_DATA_NONE => 0,
            vfio.VFIO_IRQ_SET_DATA_BOOL => 1,
            vfio.VFIO_IRQ_SET_DATA_EVENTFD => 4,
            _ => uint.MaxValue,
        };
        if (width == uint.MaxValue || set.argsz - (ulong)sizeof(vfio_irq_set) < (ulong)set.count * width)
        {
            return -(long)Errno.EINVAL;
        }

        byte[] data = new byte[set.count * width];
        if (!UserMemory.TryRead((ulong)argument + (ulong)sizeof(vfio_irq_set), data))
        {
            return -(long)Errno.EFAULT;
        }

        return -(long)((set.index, set.flags & Actions) switch
        {
            (vfio.VFIO_PCI_INTX_IRQ_INDEX, vfio.VFIO_IRQ_SET_ACTION_MASK) => Mask(set, data, mask: true),
            (vfio.VFIO_PCI_INTX_IRQ_INDEX, vfio.VFIO_IRQ_SET_ACTION_UNMASK) => Mask(set, data, mask: false),
            (vfio.VFIO_PCI_INTX_IRQ_INDEX or vfio.VFIO_PCI_MSI_IRQ_INDEX or vfio.VFIO_PCI_MSIX_IRQ_INDEX,
                vfio.VFIO_IRQ_SET_ACTION_TRIGGER) => Trigger(set, data),
            _ => Errno.ENOTTY,
        });
    }

    /// <summary>Switches every kind off.</summary>
    public void Disable()
    {
        for (int i = 0; i < _triggers.Length; i++)
        {
            Release(i);
        }

        _triggers = [];
        _kind = None;
        _isMasked = false;
    }

    private static void Signal(int descriptor)
    {
        ulong one = 1;
        // SAFETY: eight bytes of a local. A full counter is a signal already.
        if (descriptor >= 0 && LibC.write(descriptor, &one, sizeof(ulong)) < 0 && LibC.errno != (int)Errno.EAGAIN)
        {
            throw new LinuxException("write", (Errno)LibC.errno, "eventfd of a simulated interrupt");
        }
    }

    private static Errno Duplicate(int descriptor, out int duplicate)
    {
        duplicate = None;
        if (descriptor < 0)
        {
            return Errno.None;
        }

        string? target = new FileInfo($"/proc/self/fd/{descriptor}").LinkTarget;
        if (target is null || !target.Contains("[eventfd]", StringComparison.Ordinal))
        {
            return target is null ? Errno.EBADF : Errno.EINVAL;
        }

        duplicate = LibC.dup(descriptor);
        return duplicate < 0 ? (Errno)LibC.errno : Errno.None;
    }

    private Errno Mask(vfio_irq_set set, byte[] data, bool mask)
    {
        if (!IsEnabled(VfioInterruptKind.Intx) || set.start != 0 || set.count != 1)
        {
            return Errno.EINVAL;
        }

        uint type = set.flags & DataTypes;
        if (type == vfio.VFIO_IRQ_SET_DATA_EVENTFD)
        {
            // Unmasking by eventfd is the kernel's; nothing here uses it.
            return mask ? Errno.ENOTTY : throw new NotSupportedException("SET_IRQS: unmask by eventfd is not simulated");
        }

        if (type == vfio.VFIO_IRQ_SET_DATA_NONE || data[0] != 0)
        {
            _isMasked = mask;
            FireLine();
        }

        return Errno.None;
    }

    private Errno Trigger(vfio_irq_set set, byte[] data)
    {
        bool isOn = _kind == (int)set.index;
        uint type = set.flags & DataTypes;
        if (isOn && set.count == 0 && type == vfio.VFIO_IRQ_SET_DATA_NONE)
        {
            Disable();
            return Errno.None;
        }

        bool isLine = set.index == vfio.VFIO_PCI_INTX_IRQ_INDEX;
        if ((!isOn && _kind != None) || (isLine && (set.start != 0 || set.count != 1)))
        {
            return Errno.EINVAL;
        }

        if (type == vfio.VFIO_IRQ_SET_DATA_EVENTFD)
        {
            return SetEventFds(set, MemoryMarshal.Cast<byte, int>(data), isOn);
        }

        if (!isOn || set.start + set.count > _triggers.Length)
        {
            return Errno.EINVAL;
        }

        // Loopback: the caller itself fires the vectors.
        for (uint i = 0; i < set.count; i++)
        {
            if (type == vfio.VFIO_IRQ_SET_DATA_NONE || data[i] != 0)
            {
                Signal(_triggers[set.start + i]);
            }
        }

        return Errno.None;
    }

    private Errno SetEventFds(vfio_irq_set set, ReadOnlySpan<int> descriptors, bool isOn)
    {
        if (!isOn)
        {
            _kind = (int)set.index;
            _triggers = [.. Enumerable.Repeat(None, (int)(set.start + set.count))];
        }
        else if (set.start >= _triggers.Length || set.start + set.count > _triggers.Length)
        {
            // More vectors than were switched on at first: off and on again (VFIO_IRQ_INFO_NORESIZE).
            return Errno.EINVAL;
        }

        for (int i = 0; i < descriptors.Length; i++)
        {
            Errno errno = Duplicate(descriptors[i], out int duplicate);
            Release((int)set.start + i);
            _triggers[set.start + i] = duplicate;
            if (errno != Errno.None)
            {
                for (int j = 0; j < i; j++)
                {
                    Release((int)set.start + j);
                }

                if (!isOn)
                {
                    Disable();
                }

                return errno;
            }
        }

        FireLine();
        return Errno.None;
    }

    private void FireLine()
    {
        if (IsEnabled(VfioInterruptKind.Intx) && _line && !_isMasked)
        {
            _isMasked = true;
            Signal(_triggers[0]);
        }
    }

    private void Release(int vector)
    {
        if (_triggers[vector] >= 0)
        {
            _ = LibC.close(_triggers[vector]);
            _triggers[vector] = None;
        }
    }
}
