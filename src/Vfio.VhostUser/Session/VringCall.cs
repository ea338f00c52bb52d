namespace Vfio.VhostUser;

/// <summary>Tells a driver that buffers were used.</summary>
public abstract class VringCall
{
    /// <summary>Does it, without waiting.</summary>
    /// <returns>False when there was no room: do it again later, or the driver may sleep for ever.</returns>
    public abstract bool TrySignal();
}
