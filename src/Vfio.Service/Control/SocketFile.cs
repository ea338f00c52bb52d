using System.Globalization;
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

    /// <summary>The number of a group.</summary>
    /// <param name="nameOrNumber">Its name in <c>/etc/group</c>, or its number.</param>
    /// <returns>The number, or null when there is no such group.</returns>
    public static uint? FindGroup(string nameOrNumber)
    {
        if (uint.TryParse(nameOrNumber, NumberStyles.None, CultureInfo.InvariantCulture, out uint number))
        {
            return number;
        }

        // group(5): name:password:number:members
        foreach (string line in File.ReadLines("/etc/group"))
        {
            string[] fields = line.Split(':');
            if (fields.Length >= 3 && fields[0] == nameOrNumber
                && uint.TryParse(fields[2], NumberStyles.None, CultureInfo.InvariantCulture, out number))
            {
                return number;
            }
        }

        return null;
    }
}
