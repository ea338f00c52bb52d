using Vfio.Linux;

namespace Vfio.Service;

/// <summary>Who may use the control socket: its file mode keeps others out, and the peer's credentials are checked again.</summary>
internal static class SocketFile
{
    /// <summary>Sets mode 0660 and the group.</summary>
    /// <param name="path">The socket.</param>
    /// <param name="group">The group, or null for the process's own.</param>
    /// <returns>The group that the socket has.</returns>
    public static uint Restrict(string path, uint? group)
    {
        uint owner = group ?? UnixIdentity.EffectiveGroup;
        if (group is uint wanted)
        {
            UnixIdentity.ChangeGroup(path, wanted);
        }

        File.SetUnixFileMode(
            path, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.GroupRead | UnixFileMode.GroupWrite);
        return owner;
    }

    /// <summary>Whether a peer may use the socket.</summary>
    public static bool Admits(UnixCredentials peer, IReadOnlyList<uint> peerGroups, uint socketGroup) =>
        peer.UserId == 0 || peer.UserId == UnixIdentity.EffectiveUser
        || peer.GroupId == socketGroup || peerGroups.Contains(socketGroup);
}
