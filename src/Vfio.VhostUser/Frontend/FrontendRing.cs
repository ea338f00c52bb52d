using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.VhostUser;

/// <summary>What a front-end tells about one ring.</summary>
/// <param name="Index">Which ring.</param>
/// <param name="Size">Entries.</param>
/// <param name="Descriptors">The descriptor area: an address of the front-end or, with VIRTIO_F_ACCESS_PLATFORM, an IOVA.</param>
/// <param name="Driver">The driver area.</param>
/// <param name="Device">The device area.</param>
/// <param name="Features">What was negotiated: decides the layout and so where a new ring starts.</param>
/// <param name="Kick">Signalled when buffers were added; null: <see cref="VhostUserFrontend.Kick"/> does that, in band.</param>
/// <param name="Call">Signalled by the back-end when buffers were used; null: the driver polls, or is called in band.</param>
public sealed record FrontendRing(
    int Index,
    int Size,
    FrontendAddress Descriptors,
    FrontendAddress Driver,
    FrontendAddress Device,
    VirtioFeatures Features,
    EventFd? Kick,
    EventFd? Call)
{
    /// <summary>Where it goes on, as <see cref="VhostUserFrontend.StopRing"/> said; null: it is new.</summary>
    public uint? Position { get; init; }

    /// <summary>Signalled by the back-end when the driver broke the ring; null: it is told in band, or not at all.</summary>
    public EventFd? Error { get; init; }

    /// <summary>Where the guest has the device area, if writes to it are logged; null: they are not.</summary>
    public GuestPhysicalAddress? Log { get; init; }
}
