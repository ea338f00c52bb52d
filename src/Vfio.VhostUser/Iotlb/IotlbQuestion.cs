namespace Vfio.VhostUser;

/// <summary>A page that a queue needs and the IOTLB cannot give it.</summary>
/// <param name="Address">The page's first byte, or the first missing one where the first is known; a page has
/// <see cref="PageSize"/> bytes here, whatever the guest's are.</param>
/// <param name="Access">What is to be done there: <see cref="DmaAccess.Read"/>, <see cref="DmaAccess.Write"/> or both.</param>
/// <param name="IsRefusal">Not missing, but known and not allowed.</param>
public readonly record struct IotlbQuestion(Iova Address, DmaAccess Access, bool IsRefusal)
{
    /// <summary>Bytes that one question is about. Front-ends answer for the page around the first byte, whatever size is asked.</summary>
    public const uint PageSize = 4096;
}
