namespace Vfio;

/// <summary>One call of a plan.</summary>
/// <param name="Mapping">What is mapped where.</param>
/// <param name="LargestPage">Bytes of the largest IOMMU page that addresses and backing allow: 4 KiB, 2 MiB or 1 GiB.</param>
public readonly record struct PinMap(DmaMapping Mapping, ulong LargestPage);
