namespace Vfio.VhostUser.Benchmarks;

/// <summary>What one side did while it was its turn.</summary>
/// <param name="Begin">When counting began (<see cref="LatencyWatch.Now"/>).</param>
/// <param name="End">When it ended.</param>
/// <param name="Mpps">Millions of frames a second in between.</param>
/// <param name="Share">How much of the two processors the side had during its turn, 1 being all that it could have used. A poller that
/// had less was kept waiting, by other programs or by its host, and a side that was kept waiting did not show what it can do.</param>
internal readonly record struct Turn(double Begin, double End, double Mpps, double Share);
