namespace Vfio.VhostUser.Benchmarks;

/// <summary>Which back-end is measured.</summary>
internal enum BackendKind
{
    /// <summary>DPDK's <c>net_vhost</c>.</summary>
    Dpdk,

    /// <summary>This project's.</summary>
    Ours,

    /// <summary>The same without the clamp against speculation.</summary>
    ClampOff,

    /// <summary>The same, asking for missing translations of one batch only.</summary>
    PrefetchOff,
}
