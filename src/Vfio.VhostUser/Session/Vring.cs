using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.VhostUser;

/// <summary>What a front-end has said about one ring so far.</summary>
internal sealed class Vring(int index) : IDisposable
{
    private readonly List<StitchedMemory> _views = [];

    public int Index { get; } = index;

    public int Size { get; set; }

    public VringAddresses? Addresses { get; set; }

    public RingPosition Position { get; set; }

    public EventFd? Kick { get; private set; }

    public EventFd? Call { get; private set; }

    public EventFd? Error { get; private set; }

    /// <summary>Asked to start: SET_VRING_KICK came, or a kick in band.</summary>
    public bool IsStarted { get; set; }

    /// <summary>SET_VRING_ENABLE; matters only with VHOST_USER_F_PROTOCOL_FEATURES.</summary>
    public bool IsEnabled { get; set; }

    /// <summary>The device uses it.</summary>
    public bool IsRunning { get; set; }

    /// <summary>It would run if all its parts were mapped.</summary>
    public bool IsWaitingForTranslation { get; set; }

    /// <summary>Where its parts are for the driver's IOMMU, while it runs or waits; empty without one.</summary>
    public IovaRange[] Parts { get; set; } = [];

    /// <summary>It was said that it is scattered.</summary>
    public bool IsKnownScattered { get; set; }

    /// <summary>Its view of the IOTLB, while it runs; null without one.</summary>
    public IotlbView? Iotlb { get; set; }

    /// <summary>Makes a view of pieces of the ring, which lives until <see cref="ForgetViews"/>.</summary>
    public StitchedMemory View(PeerMappings owner, ReadOnlySpan<(nint Address, ulong Length)> pieces)
    {
        var view = StitchedMemory.Make(owner, pieces);
        _views.Add(view);
        return view;
    }

    /// <summary>Takes the views away. The device does not use the ring.</summary>
    public void ForgetViews()
    {
        _views.ForEach(v => v.Dispose());
        _views.Clear();
    }

    public void SetKick(EventFd? descriptor)
    {
        Kick?.Dispose();
        Kick = descriptor;
    }

    public void SetCall(EventFd? descriptor)
    {
        Call?.Dispose();
        Call = descriptor;
    }

    public void SetError(EventFd? descriptor)
    {
        Error?.Dispose();
        Error = descriptor;
    }

    /// <summary>As before the front-end said anything. The device does not use it.</summary>
    public void Reset()
    {
        Size = 0;
        Addresses = null;
        Position = default;
        IsStarted = false;
        IsEnabled = false;
        IsWaitingForTranslation = false;
        IsKnownScattered = false;
        Parts = [];
        Dispose();
    }

    public void Dispose()
    {
        ForgetViews();
        SetKick(null);
        SetCall(null);
        SetError(null);
    }
}
