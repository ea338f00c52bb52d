namespace Vfio.Testing;

/// <summary>Where kernels differ in what they answer.</summary>
/// <param name="Name">For messages.</param>
/// <param name="ReportsOverflow">A range that wraps is EOVERFLOW, and size 0 and wrap are tested before flags and alignment, instead
/// of EINVAL after them (vfio_dma_do_map, changed in 6.18).</param>
/// <param name="AlignsCapabilities">Every capability takes a multiple of 8 bytes (vfio_info_cap_add, since 6.6).</param>
/// <param name="UnknownContainer">What VFIO_GROUP_SET_CONTAINER says to a descriptor that is no container (EBADFD since 6.2).</param>
public sealed record KernelBehaviour(string Name, bool ReportsOverflow, bool AlignsCapabilities, int UnknownContainer)
{
    /// <summary>Containers are iommufd's (CONFIG_IOMMUFD_VFIO_CONTAINER, <c>drivers/iommu/iommufd/vfio_compat.c</c>): no capability tells of
    /// migration, entries are without end, and there is no dirty tracking. All else is taken to be as with type1.</summary>
    public bool IsIommufd { get; init; }

    private const int Einval = 22;
    private const int Ebadfd = 77;

    public static KernelBehaviour Linux61 { get; } = new("Linux 6.1", ReportsOverflow: false, AlignsCapabilities: false, Einval);

    public static KernelBehaviour Linux618 { get; } = new("Linux 6.18", ReportsOverflow: true, AlignsCapabilities: true, Ebadfd);

    public override string ToString() => Name;
}
