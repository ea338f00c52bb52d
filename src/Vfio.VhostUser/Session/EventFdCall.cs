using Vfio.Linux;

namespace Vfio.VhostUser;

/// <summary>By an eventfd. A full counter is a signal that was not read; only the kernel's own want of memory leaves no room.</summary>
internal sealed class EventFdCall(EventFd descriptor) : VringCall
{
    public override bool TrySignal() => descriptor.TrySignal() == Errno.None;
}
