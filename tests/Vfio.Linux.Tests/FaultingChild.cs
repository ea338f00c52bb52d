using System.Diagnostics;
using System.Runtime.CompilerServices;

namespace Vfio.Linux.Tests;

/// <summary>This program once more, to touch memory that is gone before any test runs: what that does to a process can only be seen
/// from outside.</summary>
internal static unsafe class FaultingChild
{
    /// <summary>Nothing is watched.</summary>
    public const string Plain = "plain";

    /// <summary>Other memory is watched.</summary>
    public const string Watched = "watched";

    /// <summary>The memory itself is watched.</summary>
    public const string Inside = "inside";

    private const string Variable = "VFIOPIN_TEST_FAULT";

    public static (int Code, string Error) Run(string where)
    {
        var start = new ProcessStartInfo(Environment.ProcessPath!)
        {
            RedirectStandardError = true,
            RedirectStandardOutput = true,
            Environment = { [Variable] = where, ["DOTNET_DbgEnableMiniDump"] = "0" },
        };
        using Process child = Process.Start(start)!;
        child.OutputDataReceived += (_, _) => { };
        child.BeginOutputReadLine();
        string error = child.StandardError.ReadToEnd();
        child.WaitForExit();
        return (child.ExitCode, error);
    }

    [ModuleInitializer]
    internal static void Begin()
    {
        if (Environment.GetEnvironmentVariable(Variable) is { Length: > 0 } where)
        {
            Environment.Exit(Touch(where));
        }
    }

    private static int Touch(string where)
    {
        using FileDescriptor file = MemoryFile.Create("lost", 4096, canShrink: true);
        using FileDescriptor other = MemoryFile.Create("other", 4096);
        using GuardedMapping? watched = where == Plain ? null : GuardedMapping.Map(where == Inside ? file : other, new FileRange(0, 4096), 4096);
        using MappedMemory plain = MappedMemory.Map(file, 0, 4096, writable: true);
        _ = LibC.ftruncate(file.Number, 0);
        return *(byte*)(where == Inside ? watched!.Address : plain.Address);
    }
}
