namespace Vfio.VhostUser;

/// <summary>How a poller that asked for translations takes the answers itself. For threads that hold no translation and no pointer
/// that one led to: a revocation may be among them, and is acknowledged.</summary>
/// <remarks>Thread-safe; no call waits for the front-end.</remarks>
public interface IIotlbAnswers
{
    /// <summary>Whether <see cref="Take"/> is due between this batch and the next.</summary>
    bool AreAwaited { get; }

    /// <summary>Questions were sent: from now on <see cref="Take"/> is due, as long as <see cref="AreAwaited"/>: until the front-end was
    /// silent for a while at the latest, or the session's thread is quicker.</summary>
    void Await();

    /// <summary>Takes what is there. The calling thread's <see cref="GracePeriodReader"/> is parked.</summary>
    /// <param name="round">Another number in each of the thread's rounds over all its queues, 0 or more: after the last answer nothing more
    /// is done in the same round, as a batch waits for it.</param>
    /// <returns>Whether there was anything.</returns>
    bool Take(long round);
}
