namespace Vfio;

/// <summary>What the kernel's dirty tracking can do (<c>VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION</c>).</summary>
/// <param name="PageSize">Bytes that one bit stands for.</param>
/// <param name="LargestBitmap">Bytes of the largest bitmap that one call may ask for.</param>
public sealed record DirtyCapability(ulong PageSize, ulong LargestBitmap);
