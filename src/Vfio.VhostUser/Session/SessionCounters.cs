namespace Vfio.VhostUser;

/// <summary>What front-ends said, and did to the memory that they shared: in one session, or in several.</summary>
/// <param name="Messages">Messages that were received whole.</param>
/// <param name="Refused">Messages that were refused.</param>
/// <param name="Losses">Accesses that found shared memory gone.</param>
public readonly record struct SessionCounters(long Messages, long Refused, long Losses)
{
    /// <summary>Adds those of another session.</summary>
    /// <param name="other">The other.</param>
    /// <returns>The sum.</returns>
    public SessionCounters With(SessionCounters other) =>
        new(Messages + other.Messages, Refused + other.Refused, Losses + other.Losses);
}
