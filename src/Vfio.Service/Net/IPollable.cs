namespace Vfio.Service;

/// <summary>Work that a <see cref="Poller"/> does over and over.</summary>
public interface IPollable
{
    /// <summary>Does what there is to do, one batch of it. Allocates nothing.</summary>
    /// <returns>Whether there was anything.</returns>
    bool PollOnce();

    /// <summary>Whether <see cref="WorkWhileParked"/> is due.</summary>
    bool HasWorkWhileParked { get; }

    /// <summary>Does what must not happen inside a batch: the poller's <see cref="GracePeriodReader"/> is parked. Touches no ring
    /// and no memory of a guest.</summary>
    /// <param name="round">Another number in each of the poller's rounds over all its work, 0 or more.</param>
    /// <returns>Whether there was anything.</returns>
    bool WorkWhileParked(long round);

    /// <summary>Asks for a wake-up when there is more: the poller is about to sleep.</summary>
    /// <returns>True when it must not sleep: there is more already, or nobody would wake it.</returns>
    bool EnableNotifications();

    /// <summary>The poller is awake: wake-ups are not needed.</summary>
    void DisableNotifications();

    /// <summary>One of the others threw: a fault of this program's. Does nothing from now on, and ends what cannot go on without it.</summary>
    /// <param name="fault">What was thrown.</param>
    void Fail(Exception fault);
}
