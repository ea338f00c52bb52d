using Vfio.Linux;

namespace Vfio.VhostUser;

/// <summary>By an eventfd, which always has room: a full counter is a signal that was not read.</summary>
internal sealed class EventFdCall(EventFd descriptor) : VringCall
{
    public override bool TrySignal()
    {
        descriptor.Signal();
        return true;
    }
}
