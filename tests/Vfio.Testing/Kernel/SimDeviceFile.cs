using System.Runtime.InteropServices;
using Vfio.Linux;

namespace Vfio.Testing;

/// <summary>An open device (<c>drivers/vfio/pci/vfio_pci_core.c</c>, <c>vfio_pci_rdwr.c</c>).</summary>
internal sealed unsafe class SimDeviceFile : SimFile
{
    private const int RegionShift = 40;
    private const uint Regions = 9;

    private readonly SimKernel _kernel;
    private readonly SimGroup _group;
    private readonly SimPciDevice _device;

    public SimDeviceFile(SimKernel kernel, SimGroup group, SimPciDevice device)
    {
        _kernel = kernel;
        _group = group;
        _device = device;
        device.Files++;
        if (device.Files == 1)
        {
            device.Configuration.SetInitialCommand();
        }
    }

    public override string Name => _device.Address.ToString();

    public override long Ioctl(uint request, void* argument) => request switch
    {
        vfio.VFIO_DEVICE_GET_INFO => GetInfo(argument),
        vfio.VFIO_DEVICE_GET_REGION_INFO => GetRegionInfo(argument),
        vfio.VFIO_DEVICE_GET_IRQ_INFO => GetIrqInfo(argument),
        vfio.VFIO_DEVICE_SET_IRQS => _device.Interrupts.Set(argument),
        vfio.VFIO_DEVICE_RESET => Reset(),
        _ => -(long)Errno.ENOTTY,
    };

    public override nint Read(Span<byte> buffer, long offset)
    {
        (int region, ulong position) = Split(offset);
        if (region == (int)vfio.VFIO_PCI_CONFIG_REGION_INDEX)
        {
            if (!IsConfiguration(position, buffer.Length))
            {
                return -(int)Errno.EFAULT;
            }

            _device.Configuration.Read((int)position, buffer);
            return buffer.Length;
        }

        Errno errno = Check(region, position, buffer.Length, out SimRegion? bar, out int length);
        if (errno != Errno.None)
        {
            return -(int)errno;
        }

        for (int done = 0; done < length;)
        {
            int width = Width(position, length - done);
            Span<byte> bytes = buffer.Slice(done, width);
            if (bar!.IsMemory(position, (ulong)width))
            {
                bar.Memory.Slice((int)position, width).CopyTo(bytes);
            }
            else
            {
                uint value = _device.Trap(region, position, width);
                MemoryMarshal.AsBytes(new ReadOnlySpan<uint>(in value))[..width].CopyTo(bytes);
            }

            done += width;
            position += (ulong)width;
        }

        return length;
    }

    public override nint Write(ReadOnlySpan<byte> buffer, long offset)
    {
        (int region, ulong position) = Split(offset);
        if (region == (int)vfio.VFIO_PCI_CONFIG_REGION_INDEX)
        {
            if (!IsConfiguration(position, buffer.Length))
            {
                return -(int)Errno.EFAULT;
            }

            _device.Configuration.Write((int)position, buffer);
            return buffer.Length;
        }

        Errno errno = Check(region, position, buffer.Length, out SimRegion? bar, out int length);
        if (errno != Errno.None)
        {
            return -(int)errno;
        }

        for (int done = 0; done < length;)
        {
            int width = Width(position, length - done);
            ReadOnlySpan<byte> bytes = buffer.Slice(done, width);
            if (bar!.IsMemory(position, (ulong)width))
            {
                bytes.CopyTo(bar.Memory[(int)position..]);
            }
            else
            {
                uint value = 0;
                bytes.CopyTo(MemoryMarshal.AsBytes(new Span<uint>(ref value)));
                _device.Trap(region, position, width, value);
            }

            done += width;
            position += (ulong)width;
        }

        return length;
    }

    // vfio_pci_core_mmap.
    public override nint Map(nuint length, int protection, int flags, long offset)
    {
        (int region, ulong position) = Split(offset);
        SimRegion? bar = region <= (int)vfio.VFIO_PCI_BAR5_REGION_INDEX ? _device.Bar(region) : null;
        return bar is null || (flags & Mman.MAP_SHARED) == 0 || length == 0
            ? -(nint)(int)Errno.EINVAL
            : bar.Map(length, protection, position);
    }

    public override void Close()
    {
        _device.Files--;
        if (_device.Files == 0)
        {
            _device.Interrupts.Disable();
            _device.Configuration.SetInitialCommand();
            _device.Reset();
        }

        _group.Release();
    }

    // Whole accesses of the largest width that alignment and length allow (vfio_pci_core_do_io_rw).
    private static int Width(ulong position, int left) =>
        left >= 4 && position % 4 == 0 ? 4 : left >= 2 && position % 2 == 0 ? 2 : 1;

    private static (int Region, ulong Position) Split(long offset) =>
        ((int)(offset >> RegionShift), (ulong)offset & ((1ul << RegionShift) - 1));

    private static bool IsConfiguration(ulong position, int length) =>
        position + (ulong)length <= (ulong)PciConfigurationSpace.Length;

    // vfio_pci_bar_rw.
    private Errno Check(int region, ulong position, int asked, out SimRegion? bar, out int length)
    {
        bar = region is >= 0 and <= (int)vfio.VFIO_PCI_BAR5_REGION_INDEX ? _device.Bar(region) : null;
        length = 0;
        if (bar is null || position >= bar.Length)
        {
            return Errno.EINVAL;
        }

        length = (int)Math.Min((ulong)asked, bar.Length - position);
        return _device.Configuration.IsMemoryEnabled ? Errno.None : Errno.EIO;
    }

    private long GetInfo(void* argument)
    {
        const uint Smallest = 16;
        const uint WithCapabilities = 20;
        if (!UserMemory.TryRead(argument, out uint size))
        {
            return -(long)Errno.EFAULT;
        }

        if (size < Smallest)
        {
            return -(long)Errno.EINVAL;
        }

        var info = new vfio_device_info
        {
            argsz = size,
            flags = vfio.VFIO_DEVICE_FLAGS_PCI | (_device.CanReset ? vfio.VFIO_DEVICE_FLAGS_RESET : 0),
            num_regions = Regions,
            num_irqs = SimInterrupts.Kinds,
        };
        int written = (int)(size >= WithCapabilities ? WithCapabilities : Smallest);
        return Answer(argument, MemoryMarshal.AsBytes(new ReadOnlySpan<vfio_device_info>(in info))[..written]);
    }

    private long GetRegionInfo(void* argument)
    {
        if (!UserMemory.TryRead(argument, out vfio_region_info info))
        {
            return -(long)Errno.EFAULT;
        }

        // Index 8 is the VGA window, which these devices have not.
        if (info.argsz < sizeof(vfio_region_info) || info.index >= Regions - 1)
        {
            return -(long)Errno.EINVAL;
        }

        const uint ReadWrite = vfio.VFIO_REGION_INFO_FLAG_READ | vfio.VFIO_REGION_INFO_FLAG_WRITE;
        var chain = new CapabilityChain(_kernel.Behaviour);
        info.offset = (ulong)info.index << RegionShift;
        info.size = 0;
        info.flags = 0;
        if (info.index == vfio.VFIO_PCI_CONFIG_REGION_INDEX)
        {
            info.size = (ulong)PciConfigurationSpace.Length;
            info.flags = ReadWrite;
        }
        else if (info.index <= vfio.VFIO_PCI_BAR5_REGION_INDEX && _device.Bar((int)info.index) is { } bar)
        {
            info.size = bar.Length;
            info.flags = ReadWrite | (bar.Areas.Count > 0 ? vfio.VFIO_REGION_INFO_FLAG_MMAP : 0);
            bar.AddCapabilities(chain);
            if (bar.Areas.Count > 0 && _device.MsixBar == (int)info.index)
            {
                chain.Add(CapabilityChain.Header(vfio.VFIO_REGION_INFO_CAP_MSIX_MAPPABLE));
            }
        }

        if (chain.Length > 0)
        {
            info.flags |= vfio.VFIO_REGION_INFO_FLAG_CAPS;
            uint needed = (uint)(sizeof(vfio_region_info) + chain.Length);
            info.cap_offset = info.argsz < needed ? 0 : (uint)sizeof(vfio_region_info);
            if (info.argsz < needed)
            {
                info.argsz = needed;
            }
            else if (!UserMemory.TryWrite((ulong)argument + info.cap_offset, chain.ToBytes(info.cap_offset)))
            {
                return -(long)Errno.EFAULT;
            }
        }

        return Answer(argument, MemoryMarshal.AsBytes(new ReadOnlySpan<vfio_region_info>(in info)));
    }

    private long GetIrqInfo(void* argument)
    {
        const uint ErrorIndex = 3;
        if (!UserMemory.TryRead(argument, out vfio_irq_info info))
        {
            return -(long)Errno.EFAULT;
        }

        // The error interrupt is for PCI Express devices, which these are not.
        if (info.argsz < sizeof(vfio_irq_info) || info.index is >= SimInterrupts.Kinds or ErrorIndex)
        {
            return -(long)Errno.EINVAL;
        }

        info.flags = vfio.VFIO_IRQ_INFO_EVENTFD | (info.index == vfio.VFIO_PCI_INTX_IRQ_INDEX
            ? vfio.VFIO_IRQ_INFO_MASKABLE | vfio.VFIO_IRQ_INFO_AUTOMASKED
            : vfio.VFIO_IRQ_INFO_NORESIZE);
        info.count = _device.Interrupts.Count(info.index);
        return Answer(argument, MemoryMarshal.AsBytes(new ReadOnlySpan<vfio_irq_info>(in info)));
    }

    private long Reset()
    {
        if (!_device.CanReset)
        {
            return -(long)Errno.EINVAL;
        }

        _device.Reset();
        return 0;
    }

    private static long Answer(void* argument, ReadOnlySpan<byte> bytes) =>
        UserMemory.TryWrite((ulong)argument, bytes) ? 0 : -(long)Errno.EFAULT;
}
