namespace Vfio.VhostUser;

/// <summary>What the IOTLB knows of a piece of a range.</summary>
public enum IotlbPieceKind
{
    /// <summary>It may be used.</summary>
    Mapped,

    /// <summary>Nothing is known: ask the front-end (IOTLB miss).</summary>
    Missing,

    /// <summary>It is known and the access is not allowed (IOTLB access fail).</summary>
    Refused,
}
