namespace Vfio.Linux;

/// <summary>Users and groups of this process and of files.</summary>
public static class UnixIdentity
{
    /// <summary>The effective user of this process.</summary>
    public static uint EffectiveUser => LibC.geteuid();

    /// <summary>The effective group of this process.</summary>
    public static uint EffectiveGroup => LibC.getegid();

    /// <summary>Whether this process may open a file for reading and writing, by its mode and owner.</summary>
    /// <param name="path">The file.</param>
    /// <returns>True when it may.</returns>
    public static bool CanReadAndWrite(string path) => LibC.access(path, Access.R_OK | Access.W_OK) == 0;

    /// <summary>Gives a file to a group.</summary>
    /// <param name="path">The file.</param>
    /// <param name="group">The group.</param>
    /// <exception cref="LinuxException">chown(2) failed.</exception>
    public static void ChangeGroup(string path, uint group)
    {
        // chown(2): -1 leaves the owner as it is.
        if (LibC.chown(path, uint.MaxValue, group) < 0)
        {
            throw new LinuxException(
                "chown", (Errno)LibC.errno, $"{path} to group {group}", "only root gives files to a group that it is not in", "run it as root");
        }
    }
}
