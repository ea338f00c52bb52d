using Vfio.Linux;

namespace Vfio.Testing;

/// <summary>A type1 IOMMU: its mappings and what it lets a device reach. The rules, their order and their errors are those of
/// <c>drivers/vfio/vfio_iommu_type1.c</c>; a mapping is whole or not there.</summary>
/// <remarks>Everything is called under the kernel's lock.</remarks>
internal sealed unsafe partial class SimIommu(SimKernel kernel, bool isVersion2)
{
    private const uint MapFlags = vfio.VFIO_DMA_MAP_FLAG_READ | vfio.VFIO_DMA_MAP_FLAG_WRITE | vfio.VFIO_DMA_MAP_FLAG_VADDR;
    private const uint UnmapFlags =
        vfio.VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP | vfio.VFIO_DMA_UNMAP_FLAG_ALL | vfio.VFIO_DMA_UNMAP_FLAG_VADDR;

    private readonly List<SimMapping> _mappings = [];
    private readonly List<SimGroup> _groups = [];
    private readonly uint _entryLimit = kernel.EntryLimit;
    private List<IovaRange> _validRanges = [];
    private int _invalidAddresses;

    public IReadOnlyList<SimMapping> Mappings => _mappings;

    public IReadOnlyList<SimGroup> Groups => _groups;

    private ulong PageSizes => kernel.PageSizes;

    private ulong SmallestPageSize => PageSizes & (~PageSizes + 1);

    private uint AvailableEntries => _entryLimit - (uint)_mappings.Count;

    /// <summary>vfio_iommu_type1_attach_group.</summary>
    public Errno Attach(SimGroup group)
    {
        if (_invalidAddresses > 0)
        {
            return Errno.EBUSY;
        }

        List<IovaRange> ranges = ValidRanges([.. _groups, group]);
        bool conflict = _mappings.Any(m => !ranges.Any(r => r.Contains(m.Range)));
        if (conflict || ranges.Count == 0)
        {
            return Errno.EINVAL;
        }

        if (!kernel.HasInterruptRemapping)
        {
            return Errno.EPERM;
        }

        _groups.Add(group);
        _validRanges = ranges;
        return Errno.None;
    }

    /// <summary>vfio_iommu_type1_detach_group: with the last group all mappings go.</summary>
    public void Detach(SimGroup group)
    {
        _groups.Remove(group);
        _validRanges = ValidRanges(_groups);
        if (_groups.Count == 0)
        {
            Release();
        }
    }

    public void Release()
    {
        while (_mappings.Count > 0)
        {
            Remove(_mappings.Count - 1);
        }
    }

    public long Ioctl(uint request, void* argument) => request switch
    {
        vfio.VFIO_IOMMU_GET_INFO => GetInfo(argument),
        vfio.VFIO_IOMMU_MAP_DMA => MapDma(argument),
        vfio.VFIO_IOMMU_UNMAP_DMA => UnmapDma(argument),
        vfio.VFIO_IOMMU_DIRTY_PAGES => DirtyPages(argument),
        _ => -(long)Errno.ENOTTY,
    };

    /// <summary>Where a device's access ends up.</summary>
    /// <returns>Why it may not, or null.</returns>
    public string? Translate(Iova iova, ulong length, DmaAccess access, out HostAddress host, out ulong usable)
    {
        host = default;
        usable = 0;
        int index = Find(iova.Value);
        if (index < 0)
        {
            return "nothing is mapped there";
        }

        SimMapping mapping = _mappings[index];
        if ((mapping.Access & access) != access)
        {
            return $"the mapping allows the device {mapping.Access} only";
        }

        host = mapping.Address + (iova - mapping.Range.First);
        usable = Math.Min(length, mapping.Range.Last - iova + 1);
        bool isThere = (access & DmaAccess.Write) != 0 ? UserMemory.CanWrite(host.Value, usable) : UserMemory.CanRead(host.Value, usable);
        return isThere ? null : $"the memory of {mapping} was unmapped from the process while it was pinned";
    }

    private static List<IovaRange> ValidRanges(List<SimGroup> groups)
    {
        if (groups.Count == 0)
        {
            return [];
        }

        ulong first = groups.Max(g => g.Aperture.First.Value);
        ulong last = groups.Min(g => g.Aperture.Last.Value);
        List<(ulong First, ulong Last)> ranges = first <= last ? [(first, last)] : [];
        foreach (IovaRange reserved in groups.SelectMany(g => g.Reserved))
        {
            ranges = [.. ranges.SelectMany(r => Without(r, reserved))];
        }

        return [.. ranges.Select(r => new IovaRange(new Iova(r.First), new Iova(r.Last)))];
    }

    private static IEnumerable<(ulong First, ulong Last)> Without((ulong First, ulong Last) range, IovaRange reserved)
    {
        if (reserved.Last.Value < range.First || reserved.First.Value > range.Last)
        {
            yield return range;
            yield break;
        }

        if (reserved.First.Value > range.First)
        {
            yield return (range.First, reserved.First.Value - 1);
        }

        if (reserved.Last.Value < range.Last)
        {
            yield return (reserved.Last.Value + 1, range.Last);
        }
    }

    private long MapDma(void* argument)
    {
        if (!UserMemory.TryRead(argument, out vfio_iommu_type1_dma_map map))
        {
            return -(long)Errno.EFAULT;
        }

        return map.argsz < sizeof(vfio_iommu_type1_dma_map) || (map.flags & ~MapFlags) != 0
            ? -(long)Errno.EINVAL
            : -(long)Map(map);
    }

    private Errno Map(vfio_iommu_type1_dma_map map)
    {
        bool wraps = map.size != 0
            && (unchecked(map.iova + map.size - 1) < map.iova || unchecked(map.vaddr + map.size - 1) < map.vaddr);
        if (kernel.Behaviour.ReportsOverflow && (map.size == 0 || wraps))
        {
            return wraps ? Errno.EOVERFLOW : Errno.EINVAL;
        }

        bool setAddress = (map.flags & vfio.VFIO_DMA_MAP_FLAG_VADDR) != 0;
        var access = (DmaAccess)(map.flags & (uint)DmaAccess.ReadWrite);
        if (setAddress == (access != DmaAccess.None)
            || map.size == 0 || ((map.size | map.iova | map.vaddr) & (SmallestPageSize - 1)) != 0
            || wraps)
        {
            return Errno.EINVAL;
        }

        var range = IovaRange.Of(new Iova(map.iova), map.size);
        int next = FirstFrom(map.iova);
        SimMapping? overlapping = next < _mappings.Count && _mappings[next].Range.Overlaps(range) ? _mappings[next] : null;
        if (setAddress)
        {
            return SetAddress(overlapping, next, range, new HostAddress(map.vaddr));
        }

        if (overlapping is not null)
        {
            return Errno.EEXIST;
        }

        if (AvailableEntries == 0)
        {
            return Errno.ENOSPC;
        }

        if (!_validRanges.Any(r => r.Contains(range)))
        {
            return Errno.EINVAL;
        }

        Errno errno = kernel.Pin(new HostAddress(map.vaddr), map.size, access, out ulong locked);
        if (errno == Errno.None)
        {
            _mappings.Insert(
                next, new SimMapping(range, new HostAddress(map.vaddr), access, locked) { Bitmap = NewBitmap(range) });
        }

        return errno;
    }

    private Errno SetAddress(SimMapping? mapping, int index, IovaRange range, HostAddress address)
    {
        if (mapping is null)
        {
            return Errno.ENOENT;
        }

        if (!mapping.AddressIsInvalid || mapping.Range != range)
        {
            return Errno.EINVAL;
        }

        _mappings[index] = mapping with { Address = address, AddressIsInvalid = false };
        _invalidAddresses--;
        return Errno.None;
    }

    private long UnmapDma(void* argument)
    {
        if (!UserMemory.TryRead(argument, out vfio_iommu_type1_dma_unmap unmap))
        {
            return -(long)Errno.EFAULT;
        }

        const uint WithoutBitmap = vfio.VFIO_DMA_UNMAP_FLAG_ALL | vfio.VFIO_DMA_UNMAP_FLAG_VADDR;
        bool wantsBitmap = (unmap.flags & vfio.VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP) != 0;
        if (unmap.argsz < sizeof(vfio_iommu_type1_dma_unmap) || (unmap.flags & ~UnmapFlags) != 0
            || (wantsBitmap && (unmap.flags & WithoutBitmap) != 0))
        {
            return -(long)Errno.EINVAL;
        }

        vfio_bitmap bitmap = default;
        if (wantsBitmap)
        {
            if (unmap.argsz < sizeof(vfio_iommu_type1_dma_unmap) + sizeof(vfio_bitmap))
            {
                return -(long)Errno.EINVAL;
            }

            if (!UserMemory.TryRead((byte*)argument + sizeof(vfio_iommu_type1_dma_unmap), out bitmap))
            {
                return -(long)Errno.EFAULT;
            }

            if (!IsAcceptable(bitmap, unmap.size))
            {
                return -(long)Errno.EINVAL;
            }
        }

        Errno errno = Unmap(unmap, wantsBitmap ? bitmap : null, out ulong unmapped);
        if (errno != Errno.None)
        {
            return -(long)errno;
        }

        // SAFETY: it was read from there a moment ago; the whole struct fits, as argsz says.
        ((vfio_iommu_type1_dma_unmap*)argument)->size = unmapped;
        return 0;
    }

    private Errno Unmap(vfio_iommu_type1_dma_unmap unmap, vfio_bitmap? bitmap, out ulong unmapped)
    {
        unmapped = 0;
        bool all = (unmap.flags & vfio.VFIO_DMA_UNMAP_FLAG_ALL) != 0;
        ulong misaligned = SmallestPageSize - 1;
        if ((unmap.iova & misaligned) != 0
            || (all && (unmap.iova | unmap.size) != 0)
            || (!all && (unmap.size == 0 || (unmap.size & misaligned) != 0)))
        {
            return Errno.EINVAL;
        }

        ulong last = all ? ulong.MaxValue : unchecked(unmap.iova + unmap.size - 1);
        if (last < unmap.iova)
        {
            return kernel.Behaviour.ReportsOverflow ? Errno.EOVERFLOW : Errno.EINVAL;
        }

        if (bitmap is { } asked && (!_isTracking || asked.pgsize != SmallestPageSize))
        {
            return Errno.EINVAL;
        }

        if (isVersion2 && !all && Bisects(unmap.iova, last))
        {
            return Errno.EINVAL;
        }

        int index = FirstFrom(unmap.iova);
        if ((unmap.flags & vfio.VFIO_DMA_UNMAP_FLAG_VADDR) != 0)
        {
            return InvalidateAddresses(index, last, out unmapped);
        }

        while (index < _mappings.Count && _mappings[index].Range.First.Value <= last)
        {
            SimMapping mapping = _mappings[index];
            // Version 1: a range that starts inside a mapping unmaps nothing, and says so with size 0.
            if (!isVersion2 && unmap.iova > mapping.Range.First.Value)
            {
                break;
            }

            if (bitmap is { } wanted && !CopyBits(mapping, wanted.data, unmap.iova))
            {
                return Errno.EFAULT;
            }

            unmapped += mapping.Range.Length;
            Remove(index);
        }

        return Errno.None;
    }

    private Errno InvalidateAddresses(int index, ulong last, out ulong unmapped)
    {
        unmapped = 0;
        List<SimMapping> chosen = [.. _mappings.Skip(index).TakeWhile(m => m.Range.First.Value <= last)];
        if (chosen.Any(m => m.AddressIsInvalid))
        {
            return Errno.EINVAL;
        }

        foreach (SimMapping mapping in chosen)
        {
            mapping.AddressIsInvalid = true;
            _invalidAddresses++;
            unmapped += mapping.Range.Length;
        }

        return Errno.None;
    }

    private void Remove(int index)
    {
        SimMapping mapping = _mappings[index];
        _mappings.RemoveAt(index);
        _invalidAddresses -= mapping.AddressIsInvalid ? 1 : 0;
        kernel.Unpin(mapping.LockedPages);
    }

    // Whether the range starts or ends inside a mapping.
    private bool Bisects(ulong first, ulong last)
    {
        int atFirst = Find(first);
        int atLast = Find(last);
        return (atFirst >= 0 && _mappings[atFirst].Range.First.Value != first)
            || (atLast >= 0 && _mappings[atLast].Range.Last.Value != last);
    }

    // The mapping that holds the address, or -1.
    private int Find(ulong address)
    {
        int index = FirstFrom(address);
        return index < _mappings.Count && _mappings[index].Range.First.Value <= address ? index : -1;
    }

    // The first mapping that does not end before the address; their number where all do.
    private int FirstFrom(ulong address)
    {
        int low = 0;
        int high = _mappings.Count;
        while (low < high)
        {
            int middle = (low + high) / 2;
            if (_mappings[middle].Range.Last.Value < address)
            {
                low = middle + 1;
            }
            else
            {
                high = middle;
            }
        }

        return low;
    }
}
