using System.Globalization;
using Vfio.Linux;

namespace Vfio;

/// <summary>What a process may pin, as the kernel counts it: pinned pages go to <c>locked_vm</c> (<c>VmLck</c>) and are compared with
/// RLIMIT_MEMLOCK unless the process has CAP_IPC_LOCK when it maps (<c>vfio_lock_acct</c>).</summary>
/// <param name="Limit">Bytes, or null when there is no limit or it cannot be read.</param>
/// <param name="Used">Bytes counted already.</param>
/// <param name="Exempt">Whether the process has CAP_IPC_LOCK, so that the limit does not apply.</param>
public sealed record MemlockLimit(ulong? Limit, ulong Used, bool Exempt)
{
    private const int CapIpcLock = 14;

    /// <summary>The process.</summary>
    public int ProcessId { get; init; } = Environment.ProcessId;

    /// <summary>No limit at all.</summary>
    public static MemlockLimit None { get; } = new(null, 0, Exempt: false);

    /// <summary>Bytes that may still be pinned, or null where nothing limits them.</summary>
    public ulong? Left => Limit is null || Exempt ? null : Limit - Math.Min(Used, Limit.Value);

    /// <summary>Reads the limit of this process.</summary>
    /// <param name="sysfs">Where <c>/proc</c> is; the real one by default.</param>
    /// <returns>The limit; <see cref="None"/> when it cannot be read, and then the kernel's own answer decides.</returns>
    public static MemlockLimit Read(Sysfs? sysfs = null)
    {
        sysfs ??= new Sysfs();
        string limits = sysfs.TryRead("/proc/self/limits") ?? string.Empty;
        // Capabilities are the calling thread's, and it is the calling thread that maps.
        string status = sysfs.TryRead("/proc/thread-self/status") ?? sysfs.TryRead("/proc/self/status") ?? string.Empty;
        // "Max locked memory         8388608              8388608              bytes"
        string? soft = Fields(limits, "Max locked memory") is [var first, ..] ? first : null;
        ulong? limit = ulong.TryParse(soft, CultureInfo.InvariantCulture, out ulong bytes) ? bytes : null;
        ulong used = Fields(status, "VmLck:") is [var kib, ..] && ulong.TryParse(kib, CultureInfo.InvariantCulture, out ulong locked)
            ? locked * ByteSize.KiB : 0;
        bool exempt = Fields(status, "CapEff:") is [var hex, ..]
            && ulong.TryParse(hex, NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out ulong capabilities)
            && (capabilities >> CapIpcLock & 1) != 0;
        return new MemlockLimit(limit, used, exempt);
    }

    /// <summary>The lines that raise the limit to what is needed.</summary>
    /// <param name="wanted">Bytes to pin on top of what is pinned already.</param>
    /// <returns>One line of text with the three ways: systemd, limits.conf, and prlimit for the running process.</returns>
    public string Cure(ulong wanted)
    {
        ulong need = Used + wanted;
        ulong kib = (need + ByteSize.KiB - 1) / ByteSize.KiB;
        return string.Create(CultureInfo.InvariantCulture,
            $"LimitMEMLOCK={need} in the systemd unit, or \"USER - memlock {kib}\" in /etc/security/limits.conf (KiB), or "
            + $"prlimit --pid {ProcessId} --memlock={need}:{need} for the running process, or give it CAP_IPC_LOCK");
    }

    private static string[] Fields(string text, string key)
    {
        foreach (ReadOnlySpan<char> line in text.AsSpan().EnumerateLines())
        {
            if (line.StartsWith(key, StringComparison.Ordinal))
            {
                return line[key.Length..].ToString().Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries);
            }
        }

        return [];
    }
}
