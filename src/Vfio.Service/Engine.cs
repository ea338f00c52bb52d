using Vfio.Linux;

namespace Vfio.Service;

/// <summary>Pools and devices by name: what the daemon holds, and what a verb without a daemon hosts in its own process.</summary>
/// <remarks>Thread-safe. Disposing resets devices before it unmaps memory.</remarks>
public sealed class Engine : IDisposable
{
    /// <summary>Makes an engine with no pools.</summary>
    /// <param name="kernel">The kernel; the running one by default.</param>
    /// <param name="sysfs">Where <c>/sys</c> and <c>/proc</c> are; the real ones by default.</param>
    public Engine(IKernel? kernel = null, Sysfs? sysfs = null)
    {
        Kernel = kernel ?? LinuxKernel.Instance;
        Bus = new PciBus(sysfs);
    }

    /// <summary>The kernel that is asked.</summary>
    public IKernel Kernel { get; }

    /// <summary>The PCI devices of the machine.</summary>
    public PciBus Bus { get; }

    /// <summary>How many pools there are.</summary>
    public int PoolCount { get; }

    /// <inheritdoc/>
    public void Dispose()
    {
    }
}
