namespace Vfio;

/// <summary>One live entry of the IOMMU and how many use it.</summary>
internal struct LiveMapping
{
    public HostAddress Host;
    public Iova Iova;
    public ulong Length;
    public int References;
    public DmaAccess Access;

    public readonly HostAddress HostLast => Host + (Length - 1);

    public readonly DmaMapping Mapping => new(HostRange.Of(Host, Length), IovaRange.Of(Iova, Length), Access);
}
