using System.Runtime.InteropServices;

namespace Vfio.VhostUser.Benchmarks;

/// <summary>kill(2).</summary>
internal static partial class Signals
{
    // asm-generic/signal.h.
    public const int Continue = 18;
    public const int Stop = 19;

    /// <summary>Sends a signal to a child that was not waited for. One that has ended does not mind; whoever needs it finds its socket closed.</summary>
    public static void Send(int process, int signal) => _ = kill(process, signal);

    [LibraryImport("libc")]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static partial int kill(int pid, int sig);
}
