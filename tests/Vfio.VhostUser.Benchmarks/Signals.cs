using System.Runtime.InteropServices;

namespace Vfio.VhostUser.Benchmarks;

/// <summary>kill(2).</summary>
internal static partial class Signals
{
    // asm-generic/signal.h.
    public const int Continue = 18;
    public const int Stop = 19;

    public static void Send(int process, int signal)
    {
        if (kill(process, signal) < 0)
        {
            throw new InvalidOperationException($"kill: {Marshal.GetLastPInvokeErrorMessage()} (process {process})");
        }
    }

    [LibraryImport("libc", SetLastError = true)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static partial int kill(int pid, int sig);
}
