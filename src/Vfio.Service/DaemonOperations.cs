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
public sealed record DaemonInfo(string Version, int ProcessId, int Pools, int Ports, int Collections);

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
            GC.CollectionCount(0)));
}
