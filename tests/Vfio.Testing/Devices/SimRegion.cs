using System.Runtime.InteropServices;
using Vfio.Linux;

namespace Vfio.Testing;

/// <summary>A region of a simulated device. Its mappable areas are memory that the driver's side and the model share; the rest
/// traps, each access with its exact width.</summary>
public sealed unsafe class SimRegion : IDisposable
{
    private readonly FileDescriptor? _file;
    private readonly MappedMemory? _memory;

    /// <summary>Makes a region.</summary>
    /// <param name="length">Its bytes.</param>
    /// <param name="areas">Its mappable areas, multiples of 4 KiB; none for a region of traps.</param>
    internal SimRegion(ulong length, (ulong Offset, ulong Length)[] areas)
    {
        Length = length;
        Areas = areas;
        if (areas.Length > 0)
        {
            ulong rounded = (length + UserMemory.PageSize - 1) & ~(UserMemory.PageSize - 1);
            _file = MemoryFile.Create("sim-region", rounded);
            _memory = MappedMemory.Map(_file, 0, rounded, writable: true);
        }
    }

    public ulong Length { get; }

    public IReadOnlyList<(ulong Offset, ulong Length)> Areas { get; }

    /// <summary>Whether one area is the whole region, so that no sparse capability is needed.</summary>
    internal bool IsWhollyMappable => Areas is [(0, var length)] && length == Length;

    /// <summary>The model's view of the mappable areas; only those bytes mean anything.</summary>
    public Span<byte> Memory => _memory is null ? default : new Span<byte>((void*)_memory.Address, (int)_memory.Length);

    public void Dispose()
    {
        _memory?.Dispose();
        _file?.Dispose();
    }

    internal bool IsMemory(ulong offset, ulong length) =>
        Areas.Any(a => offset >= a.Offset && offset + length <= a.Offset + a.Length);

    /// <summary>mmap(2) of part of it.</summary>
    internal nint Map(nuint length, int protection, ulong offset) => IsMemory(offset, length)
        ? LinuxKernel.Instance.Mmap(length, protection, Mman.MAP_SHARED, _file!.Number, (long)offset)
        : -(nint)(int)Errno.EINVAL;

    internal void AddCapabilities(CapabilityChain chain)
    {
        if (Areas.Count == 0 || IsWhollyMappable)
        {
            return;
        }

        chain.Add(
            new vfio_region_info_cap_sparse_mmap
            {
                header = CapabilityChain.Header(vfio.VFIO_REGION_INFO_CAP_SPARSE_MMAP),
                nr_areas = (uint)Areas.Count,
            },
            MemoryMarshal.AsBytes<vfio_region_sparse_mmap_area>(
                Areas.Select(a => new vfio_region_sparse_mmap_area { offset = a.Offset, size = a.Length }).ToArray()));
    }
}
