using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.VhostUser;

/// <summary>Everything about a ring that is started, checked and resolved. Immutable: a change stops the ring and starts it
/// with another configuration.</summary>
/// <remarks>The descriptors in it stay the session's, which closes them after the ring was stopped.</remarks>
public sealed record VringConfiguration
{
    /// <summary>Which ring of the device, from 0.</summary>
    public required int Index { get; init; }

    /// <summary>Entries.</summary>
    public required int Size { get; init; }

    /// <summary>What was negotiated, with the bits of the device type.</summary>
    public required VirtioFeatures Features { get; init; }

    /// <summary>Where the ring is here. It may be scattered (<see cref="RingAddresses.IsScattered"/>).</summary>
    public required RingAddresses Addresses { get; init; }

    /// <summary>The memory that its buffers lie in.</summary>
    public required GuestMemory Memory { get; init; }

    /// <summary>How its addresses are translated when they are IOVAs (VIRTIO_F_ACCESS_PLATFORM); null: they are guest physical ones.</summary>
    public IotlbView? Iotlb { get; init; }

    /// <summary>Where it goes on.</summary>
    public required RingPosition Position { get; init; }

    /// <summary>False: buffers that the driver sends are discarded, none is given to it (vhost-user specification, "Ring states").</summary>
    public required bool Enabled { get; init; }

    /// <summary>Signalled when the driver added buffers; null: it is kicked by <see cref="IVhostUserDevice.KickRing"/>, or not at all.</summary>
    public EventFd? Kick { get; init; }

    /// <summary>Nothing tells when the driver added buffers.</summary>
    public bool MustPoll { get; init; }

    /// <summary>Tells the driver that buffers were used; null: it polls.</summary>
    public VringCall? Call { get; init; }

    /// <summary>Tells the front-end that the ring is broken; null: nobody asked.</summary>
    public VringCall? Error { get; init; }

    /// <summary>Where what is in flight is recorded, already recovered; null: it is not.</summary>
    public InflightRecord? Inflight { get; init; }

    /// <summary>Where writes to guest memory are logged; null: they are not.</summary>
    public DirtyLog? Log { get; init; }

    /// <summary>Tells the front-end that something was logged; null: nobody asked.</summary>
    public VringCall? LogSignal { get; init; }

    /// <summary>The parts of the ring whose writes are logged, as the guest numbers them; none if they are not.</summary>
    public IReadOnlyList<(GuestPhysicalAddress Address, ulong Length)> LoggedAreas { get; init; } = [];
}
