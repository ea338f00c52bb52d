using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Vfio.Linux;

namespace Vfio;

/// <summary>A region of a device: a base address register or configuration space. Registers are read and written with exactly the
/// width that is asked for, through a mapping where the device allows one and by pread(2)/pwrite(2) where not.</summary>
/// <remarks>Any thread may use a region; a register that takes two steps (select, then access) is the caller's to guard. An access
/// must be aligned to its width. After the device is disposed an access throws; the owner ends all use first, as with memory.</remarks>
public sealed unsafe class VfioRegion
{
    private readonly IKernel _kernel;
    private readonly FileDescriptor _device;
    private readonly string _name;
    private readonly long _fileOffset;
    private readonly List<(ulong Offset, MappedMemory Memory)> _areas = [];
    private bool _closed;

    private VfioRegion(IKernel kernel, VfioDevice device, string name, vfio_region_info info)
    {
        _kernel = kernel;
        _device = device.Descriptor;
        _name = name;
        _fileOffset = checked((long)info.offset);
        Length = info.size;
        IsReadable = (info.flags & vfio.VFIO_REGION_INFO_FLAG_READ) != 0;
        IsWritable = (info.flags & vfio.VFIO_REGION_INFO_FLAG_WRITE) != 0;
    }

    /// <summary>Bytes; 0 where the device has no such region.</summary>
    public ulong Length { get; }

    /// <summary>Whether it can be read.</summary>
    public bool IsReadable { get; }

    /// <summary>Whether it can be written.</summary>
    public bool IsWritable { get; }

    /// <summary>Whether any part of it is mapped into this process.</summary>
    public bool IsMapped => _areas.Count > 0;

    /// <summary>Reads 8 bits.</summary>
    /// <param name="offset">Bytes from the region's start.</param>
    /// <returns>The value.</returns>
    /// <exception cref="ArgumentOutOfRangeException">It is outside the region.</exception>
    /// <exception cref="LinuxException">pread(2) failed.</exception>
    public byte Read8(ulong offset) => Read<byte>(offset);

    /// <summary>Reads 16 bits.</summary>
    /// <inheritdoc cref="Read8"/>
    public ushort Read16(ulong offset) => Read<ushort>(offset);

    /// <summary>Reads 32 bits.</summary>
    /// <inheritdoc cref="Read8"/>
    public uint Read32(ulong offset) => Read<uint>(offset);

    /// <summary>Writes 8 bits.</summary>
    /// <param name="offset">Bytes from the region's start.</param>
    /// <param name="value">The value.</param>
    /// <exception cref="ArgumentOutOfRangeException">It is outside the region.</exception>
    /// <exception cref="LinuxException">pwrite(2) failed.</exception>
    public void Write8(ulong offset, byte value) => Write(offset, value);

    /// <summary>Writes 16 bits.</summary>
    /// <inheritdoc cref="Write8"/>
    public void Write16(ulong offset, ushort value) => Write(offset, value);

    /// <summary>Writes 32 bits.</summary>
    /// <inheritdoc cref="Write8"/>
    public void Write32(ulong offset, uint value) => Write(offset, value);

    /// <summary>Writes 64 bits as two of 32, the lower first: the only form that every device takes
    /// (virtio 1.3, 4.1.3.1 "Driver Requirements: PCI Device Layout").</summary>
    /// <inheritdoc cref="Write8"/>
    public void Write64(ulong offset, ulong value)
    {
        Write(offset, (uint)(value & uint.MaxValue));
        Write(offset + 4, (uint)(value >> 32));
    }

    /// <summary>Reads 64 bits as two of 32, the lower first.</summary>
    /// <inheritdoc cref="Read8"/>
    public ulong Read64(ulong offset)
    {
        uint low = Read<uint>(offset);
        return low | ((ulong)Read<uint>(offset + 4) << 32);
    }

    /// <summary>The address of a mapped register, for a doorbell that is written on a hot path.</summary>
    /// <param name="offset">Bytes from the region's start.</param>
    /// <param name="width">Bytes that will be accessed there.</param>
    /// <returns>The address, valid until the device is disposed; or 0 where that part is not mapped.</returns>
    /// <exception cref="ArgumentOutOfRangeException">It is outside the region.</exception>
    public nint AddressOf(ulong offset, int width)
    {
        CheckBounds(offset, width);
        foreach ((ulong start, MappedMemory memory) in _areas)
        {
            if (offset >= start && offset - start <= memory.Length - (ulong)width)
            {
                return memory.Address + (nint)(offset - start);
            }
        }

        return 0;
    }

    /// <summary>Unmaps it; for the device, which owns it.</summary>
    internal void Close()
    {
        _closed = true;
        foreach ((_, MappedMemory memory) in _areas)
        {
            memory.Dispose();
        }

        _areas.Clear();
    }

    internal static VfioRegion Open(IKernel kernel, VfioDevice device, int index)
    {
        string name = $"{device.Address} region {index}";
        byte[] buffer = new byte[sizeof(vfio_region_info)];
        vfio_region_info info;
        while (true)
        {
            // SAFETY: the kernel writes at most argsz bytes, and argsz is the buffer's length.
            fixed (byte* pointer = buffer)
            {
                *(vfio_region_info*)pointer = new vfio_region_info { argsz = (uint)buffer.Length, index = (uint)index };
                VfioContainer.Check(kernel.Ioctl(device.Descriptor.Number, vfio.VFIO_DEVICE_GET_REGION_INFO, pointer),
                    "VFIO_DEVICE_GET_REGION_INFO", name);
                info = *(vfio_region_info*)pointer;
            }

            if (info.argsz <= buffer.Length)
            {
                break;
            }

            buffer = new byte[checked((int)info.argsz)];
        }

        var region = new VfioRegion(kernel, device, name, info);
        try
        {
            region.MapAreas(info, buffer);
            return region;
        }
        catch
        {
            region.Close();
            throw;
        }
    }

    private void MapAreas(vfio_region_info info, ReadOnlySpan<byte> bytes)
    {
        if ((info.flags & vfio.VFIO_REGION_INFO_FLAG_MMAP) == 0 || info.size == 0)
        {
            return;
        }

        bool sparse = false;
        var capabilities = new Capabilities(bytes, (info.flags & vfio.VFIO_REGION_INFO_FLAG_CAPS) != 0 ? info.cap_offset : 0);
        while (capabilities.MoveNext())
        {
            if (capabilities.Id == vfio.VFIO_REGION_INFO_CAP_SPARSE_MMAP
                && MemoryMarshal.TryRead(capabilities.Bytes, out vfio_region_info_cap_sparse_mmap header))
            {
                sparse = true;
                ReadOnlySpan<vfio_region_sparse_mmap_area> areas = MemoryMarshal.Cast<byte, vfio_region_sparse_mmap_area>(
                    capabilities.Bytes[sizeof(vfio_region_info_cap_sparse_mmap)..]);
                foreach (vfio_region_sparse_mmap_area area in areas[..(int)Math.Min(header.nr_areas, (uint)areas.Length)])
                {
                    MapArea(area.offset, area.size);
                }
            }
        }

        if (!sparse)
        {
            MapArea(0, info.size);
        }
    }

    private void MapArea(ulong offset, ulong length)
    {
        if (length > 0)
        {
            _areas.Add((offset, MappedMemory.Map(_device, _fileOffset + (long)offset, length, IsWritable, kernel: _kernel)));
        }
    }

    private T Read<T>(ulong offset)
        where T : unmanaged
    {
        nint address = AddressOf(offset, sizeof(T));
        if (address != 0)
        {
            // SAFETY: AddressOf checked the bounds; the mapping lives until Close.
            // ORDER: volatile so that no read is elided, merged or hoisted; the device orders its registers itself.
            return sizeof(T) switch
            {
                1 => Unsafe.BitCast<byte, T>(Volatile.Read(ref *(byte*)address)),
                2 => Unsafe.BitCast<ushort, T>(Volatile.Read(ref *(ushort*)address)),
                _ => Unsafe.BitCast<uint, T>(Volatile.Read(ref *(uint*)address)),
            };
        }

        T value;
        nint result = _kernel.Pread(_device.Number, new Span<byte>(&value, sizeof(T)), _fileOffset + (long)offset);
        CheckTransfer("pread", result, offset, sizeof(T));
        return value;
    }

    private void Write<T>(ulong offset, T value)
        where T : unmanaged
    {
        nint address = AddressOf(offset, sizeof(T));
        if (address != 0)
        {
            // SAFETY: AddressOf checked the bounds; the mapping lives until Close.
            // ORDER: release, so that what was published in memory before is visible before the device sees the register;
            // pairs with the device's read of memory after the register write. On x86-64 stores to memory and to uncached
            // registers keep their order.
            switch (sizeof(T))
            {
                case 1:
                    Volatile.Write(ref *(byte*)address, Unsafe.BitCast<T, byte>(value));
                    break;
                case 2:
                    Volatile.Write(ref *(ushort*)address, Unsafe.BitCast<T, ushort>(value));
                    break;
                default:
                    Volatile.Write(ref *(uint*)address, Unsafe.BitCast<T, uint>(value));
                    break;
            }

            return;
        }

        nint result = _kernel.Pwrite(_device.Number, new ReadOnlySpan<byte>(&value, sizeof(T)), _fileOffset + (long)offset);
        CheckTransfer("pwrite", result, offset, sizeof(T));
    }

    private void CheckBounds(ulong offset, int width)
    {
        ObjectDisposedException.ThrowIf(_closed, this);
        if (offset > Length || Length - offset < (ulong)width || offset % (ulong)width != 0)
        {
            throw new ArgumentOutOfRangeException(
                nameof(offset), $"{_name}: {width} bytes at 0x{offset:x} are not inside its {Length} bytes, or not aligned");
        }
    }

    private void CheckTransfer(string call, nint result, ulong offset, int width)
    {
        if (result != width)
        {
            throw new LinuxException(call, result < 0 ? (Errno)(-result) : Errno.EIO, $"{_name}: {width} bytes at 0x{offset:x}",
                "the device does not answer there", "look at the kernel log: dmesg | grep vfio");
        }
    }
}
