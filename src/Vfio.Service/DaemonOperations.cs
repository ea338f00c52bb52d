using System.Reflection;

namespace Vfio.Service;

/// <summary>No parameters.</summary>
public sealed record NoParameters
{
    /// <summary>The one instance.</summary>
    public static NoParameters Instance { get; } = new();
}

/// <summary>What a daemon says of itself.</summary>
/// <param name="Version">The program's version.</param>
/// <param name="ProcessId">The daemon's process.</param>
/// <param name="Pools">How many pools it holds.</param>
/// <param name="Ports">How many network ports it serves.</param>
/// <param name="Collections">Garbage collections since its start; it stands still while nothing is asked of the daemon.</param>
/// <param name="Memlock">What it may pin.</param>
public sealed record DaemonInfo(string Version, int ProcessId, int Pools, int Ports, int Collections, MemlockInfo Memlock);

/// <summary>What a process may pin.</summary>
/// <param name="Limit">RLIMIT_MEMLOCK in bytes, or null where there is none.</param>
/// <param name="Used">Bytes counted against it already.</param>
/// <param name="Exempt">Whether it has CAP_IPC_LOCK, so that the limit does not apply.</param>
public sealed record MemlockInfo(ulong? Limit, ulong Used, bool Exempt)
{
    internal static MemlockInfo Of(MemlockLimit limit) => new(limit.Limit, limit.Used, limit.Exempt);

    internal MemlockLimit ToLimit(int processId) => new(Limit, Used, Exempt) { ProcessId = processId };
}

/// <summary>Operations on the daemon itself.</summary>
public static class DaemonOperations
{
    /// <summary>Says who serves.</summary>
    public static Operation<NoParameters, DaemonInfo> Info { get; } = new(
        "daemon.info",
        static json => json.NoParameters,
        static json => json.DaemonInfo,
        static (engine, _, _) => new DaemonInfo(
            typeof(DaemonOperations).Assembly.GetCustomAttribute<AssemblyInformationalVersionAttribute>()?.InformationalVersion ?? "unknown",
            Environment.ProcessId,
            engine.PoolCount,
            engine.Net.Ports.Count,
            GC.CollectionCount(0),
            MemlockInfo.Of(MemlockLimit.Read(engine.Bus.Sysfs))));
}
