using System.Globalization;
using Vfio.Linux;

namespace Vfio;

/// <summary>Finds who uses a device: processes that hold its VFIO group, and what the kernel itself has built on it.</summary>
/// <remarks>Reads <c>/proc</c> and <c>/sys</c>; processes of other users are seen only with privilege, so that an empty answer
/// is not a proof.</remarks>
public static class DeviceUsers
{
    /// <summary>Processes that have <c>/dev/vfio/NUMBER</c> open.</summary>
    /// <param name="sysfs">The tree to read.</param>
    /// <param name="groupNumber">The group's number.</param>
    /// <returns>Each as <c>name (pid 123)</c>.</returns>
    public static IReadOnlyList<string> OfGroup(Sysfs sysfs, int groupNumber)
    {
        ArgumentNullException.ThrowIfNull(sysfs);
        string wanted = string.Create(CultureInfo.InvariantCulture, $"/dev/vfio/{groupNumber}");
        var users = new List<string>();
        foreach (string process in sysfs.List("/proc"))
        {
            if (!int.TryParse(process, NumberStyles.None, CultureInfo.InvariantCulture, out _))
            {
                continue;
            }

            if (Descriptors(sysfs, process).Any(d => LinkTarget(sysfs, $"/proc/{process}/fd/{d}") == wanted))
            {
                users.Add($"{sysfs.TryRead($"/proc/{process}/comm") ?? "process"} (pid {process})");
            }
        }

        return users;
    }

    /// <summary>File systems, swap areas and stacked devices (device mapper, md) on the disks of a PCI device: what would lose
    /// its disk if the driver were taken away.</summary>
    /// <param name="sysfs">The tree to read.</param>
    /// <param name="address">The device.</param>
    /// <returns>Each as <c>vda1 on /home</c>, <c>vda2 as swap</c>, <c>vdb below dm-0</c>.</returns>
    public static IReadOnlyList<string> OfDisks(Sysfs sysfs, PciAddress address)
    {
        ArgumentNullException.ThrowIfNull(sysfs);
        var users = new List<string>();
        // /proc/self/mountinfo: "36 35 98:0 /mnt1 /mnt2 rw,noatime ...": major:minor is the third word, the mount point the fifth.
        string[][] mounts = Words(sysfs.TryRead("/proc/self/mountinfo"));
        string[][] swaps = Words(sysfs.TryRead("/proc/swaps"));
        foreach (string name in sysfs.List("/sys/class/block"))
        {
            // /sys/class/block/vda1 -> ../../devices/pci0000:00/0000:00:04.0/virtio1/block/vda/vda1
            string? target = LinkTarget(sysfs, $"/sys/class/block/{name}");
            if (target is null || !target.Contains($"/{address}/", StringComparison.Ordinal))
            {
                continue;
            }

            string? number = sysfs.TryRead($"/sys/class/block/{name}/dev");
            users.AddRange(mounts.Where(m => m.Length > 4 && m[2] == number).Select(m => $"{name} on {m[4]}"));
            users.AddRange(swaps.Where(s => s[0] == $"/dev/{name}").Select(_ => $"{name} as swap"));
            users.AddRange(sysfs.List($"/sys/class/block/{name}/holders").Select(h => $"{name} below {h}"));
        }

        return users;
    }

    private static IReadOnlyList<string> Descriptors(Sysfs sysfs, string process)
    {
        try
        {
            return sysfs.List($"/proc/{process}/fd");
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // It ended meanwhile, or belongs to another user.
            return [];
        }
    }

    private static string? LinkTarget(Sysfs sysfs, string path)
    {
        try
        {
            return new FileInfo(sysfs.Resolve(path)).LinkTarget;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }

    private static string[][] Words(string? text) =>
        [.. (text ?? string.Empty).Split('\n', StringSplitOptions.RemoveEmptyEntries)
            .Select(line => line.Split([' ', '\t'], StringSplitOptions.RemoveEmptyEntries))
            .Where(words => words.Length > 0)];
}
