using Vfio.Linux;

namespace Vfio;

/// <summary>What a device had before it was bound to vfio-pci, kept in a small file so that it outlives the command (but not a
/// reboot, which forgets overrides too).</summary>
/// <param name="Driver">The driver, or null when it had none.</param>
/// <param name="Override">Its <c>driver_override</c>, or null when that was not set.</param>
public sealed record FormerDriver(string? Driver, string? Override)
{
    private const string Nothing = "-";

    internal static string PathOf(string stateDirectory, PciAddress address) =>
        Path.Combine(stateDirectory, "drivers", address.ToString());

    /// <summary>Reads what was kept for a device.</summary>
    /// <param name="stateDirectory">Where it is kept, such as <c>/run/vfiopin</c>.</param>
    /// <param name="address">The device.</param>
    /// <returns>What was kept, or null when nothing was.</returns>
    /// <exception cref="LinuxException">The file is there and is not one of ours (EINVAL).</exception>
    public static FormerDriver? TryLoad(string stateDirectory, PciAddress address)
    {
        string path = PathOf(stateDirectory, address);
        if (!File.Exists(path))
        {
            return null;
        }

        string[] lines = File.ReadAllLines(path);
        if (lines.Length != 2 || lines.Any(l => l.Length == 0 || l.Contains('/', StringComparison.Ordinal)))
        {
            throw new LinuxException(
                "read", Errno.EINVAL, path, "it does not hold a driver's name and an override, a line each", $"rm {path}");
        }

        return new FormerDriver(Value(lines[0]), Value(lines[1]));
    }

    /// <summary>Keeps this for a device, in place of what was kept before.</summary>
    /// <param name="stateDirectory">Where to keep it; made when it is not there.</param>
    /// <param name="address">The device.</param>
    /// <exception cref="LinuxException">The file cannot be written.</exception>
    public void Save(string stateDirectory, PciAddress address)
    {
        string path = PathOf(stateDirectory, address);
        try
        {
            Directory.CreateDirectory(Path.GetDirectoryName(path)!);
            // Renamed into place: a command that is killed leaves the old file or the new one, never half of one.
            string fresh = path + ".new";
            File.WriteAllText(fresh, $"{Driver ?? Nothing}\n{Override ?? Nothing}\n");
            File.Move(fresh, path, overwrite: true);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new LinuxException(
                "write", e is UnauthorizedAccessException ? Errno.EACCES : Errno.EIO, path, e.Message, "run it as root");
        }
    }

    /// <summary>Forgets what was kept for a device.</summary>
    /// <param name="stateDirectory">Where it is kept.</param>
    /// <param name="address">The device.</param>
    public static void Forget(string stateDirectory, PciAddress address) => File.Delete(PathOf(stateDirectory, address));

    private static string? Value(string line) => line == Nothing ? null : line;
}
