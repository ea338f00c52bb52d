using Vfio.Linux;

namespace Vfio.Testing;

/// <summary>An open <c>/dev/vfio/vfio</c> (<c>drivers/vfio/container.c</c>). It lives on while a group is in it, even closed.</summary>
internal sealed unsafe class SimContainer(SimKernel kernel) : SimFile
{
    // "Implies v2"; newer headers keep the number reserved.
    private const int NestingIommu = 6;

    private readonly List<SimGroup> _groups = [];

    public override string Name => "/dev/vfio/vfio";

    public SimIommu? Iommu { get; private set; }

    public override long Ioctl(uint request, void* argument) => request switch
    {
        vfio.VFIO_GET_API_VERSION => vfio.VFIO_API_VERSION,
        vfio.VFIO_CHECK_EXTENSION => HasExtension((long)argument) ? 1 : 0,
        vfio.VFIO_SET_IOMMU => -(long)SetIommu((long)argument),
        _ => Iommu?.Ioctl(request, argument) ?? -(long)Errno.EINVAL,
    };

    /// <summary>vfio_container_attach_group.</summary>
    public Errno Attach(SimGroup group)
    {
        if (!group.IsViable)
        {
            return Errno.EPERM;
        }

        Errno errno = Iommu?.Attach(group) ?? Errno.None;
        if (errno == Errno.None)
        {
            _groups.Add(group);
        }

        return errno;
    }

    /// <summary>vfio_group_detach_container: with the last group the IOMMU goes.</summary>
    public void Detach(SimGroup group)
    {
        _groups.Remove(group);
        Iommu?.Detach(group);
        if (_groups.Count == 0 && Iommu is { } iommu)
        {
            Iommu = null;
            kernel.RemoveIommu(iommu);
        }
    }

    public override void Close()
    {
        // Groups keep the container; nothing is released before the last of them leaves.
    }

    private bool HasExtension(long extension) => extension switch
    {
        vfio.VFIO_TYPE1_IOMMU or vfio.VFIO_UNMAP_ALL => true,
        vfio.VFIO_TYPE1v2_IOMMU or NestingIommu => kernel.HasType1Version2,
        vfio.VFIO_UPDATE_VADDR when kernel.Behaviour.IsIommufd => false,
        vfio.VFIO_UPDATE_VADDR or vfio.VFIO_DMA_CC_IOMMU => Iommu is not null,
        _ => false,
    };

    private Errno SetIommu(long type)
    {
        if (_groups.Count == 0 || Iommu is not null)
        {
            return Errno.EINVAL;
        }

        // A driver whose CHECK_EXTENSION says no is not asked further: then there is none.
        if (!HasExtension(type))
        {
            return Errno.ENODEV;
        }

        if (type is not (vfio.VFIO_TYPE1_IOMMU or vfio.VFIO_TYPE1v2_IOMMU or NestingIommu))
        {
            return Errno.EINVAL;
        }

        SimIommu iommu = kernel.AddIommu(isVersion2: type != vfio.VFIO_TYPE1_IOMMU);
        foreach (SimGroup group in _groups)
        {
            Errno errno = iommu.Attach(group);
            if (errno != Errno.None)
            {
                kernel.RemoveIommu(iommu);
                return errno;
            }
        }

        Iommu = iommu;
        return Errno.None;
    }
}
