using System.Globalization;
using Vfio.Linux;

namespace Vfio;

/// <summary>The machine's memory, from <c>/proc/meminfo</c>.</summary>
/// <param name="Total">Bytes of memory.</param>
/// <param name="Available">Bytes that can be had without swapping.</param>
public sealed record MachineMemory(ulong Total, ulong Available)
{
    /// <summary>Reads it.</summary>
    /// <param name="sysfs">Where <c>/proc</c> is.</param>
    /// <returns>The figures, or null when they cannot be read.</returns>
    public static MachineMemory? Read(Sysfs sysfs)
    {
        ArgumentNullException.ThrowIfNull(sysfs);
        string text = sysfs.TryRead("/proc/meminfo") ?? string.Empty;
        return Field("MemTotal:") is { } total && Field("MemAvailable:") is { } available ? new MachineMemory(total, available) : null;

        ulong? Field(string key)
        {
            foreach (ReadOnlySpan<char> line in text.AsSpan().EnumerateLines())
            {
                if (line.StartsWith(key, StringComparison.Ordinal)
                    && ulong.TryParse(line[key.Length..].Trim().TrimEnd("kB").Trim(), CultureInfo.InvariantCulture, out ulong kib))
                {
                    return kib * ByteSize.KiB;
                }
            }

            return null;
        }
    }
}
