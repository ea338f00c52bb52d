namespace Vfio.Linux;

/// <summary>Who is at the other end of a socket, as the kernel recorded it when the connection was made (SO_PEERCRED).</summary>
/// <param name="ProcessId">The process.</param>
/// <param name="UserId">Its effective user.</param>
/// <param name="GroupId">Its effective group.</param>
public readonly record struct UnixCredentials(int ProcessId, uint UserId, uint GroupId);
