namespace Vfio.Service;

/// <summary>Work that a <see cref="Poller"/> does over and over.</summary>
public interface IPollable
{
    /// <summary>Does what there is to do, one batch of it. Allocates nothing.</summary>
    /// <returns>Whether there was anything.</returns>
    bool PollOnce();

    /// <summary>Asks for a wake-up when there is more: the poller is about to sleep.</summary>
    /// <returns>True when it must not sleep: there is more already, or nobody would wake it.</returns>
    bool EnableNotifications();

    /// <summary>The poller is awake: wake-ups are not needed.</summary>
    void DisableNotifications();
}
