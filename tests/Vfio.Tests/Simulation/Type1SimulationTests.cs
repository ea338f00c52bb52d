using Vfio.Linux;
using Vfio.Testing;

namespace Vfio.Tests;

/// <summary>The conformance tests on the simulated kernel; <c>Vfio.GuestTests</c> runs the same on the real one.</summary>
public abstract class Type1SimulationTests : Type1ConformanceTests, IDisposable
{
    private readonly SimKernel _kernel;

    protected Type1SimulationTests(KernelBehaviour behaviour)
    {
        _kernel = new SimKernel(behaviour);
        _kernel.Add(new SimPlainDevice(PciAddress.Parse("0000:00:05.0")), group: 7);
    }

    protected override IKernel Kernel => _kernel;

    protected override int Group => 7;

    protected override PciAddress Device => PciAddress.Parse("0000:00:05.0");

    protected override KernelBehaviour Behaviour => _kernel.Behaviour;

    public void Dispose()
    {
        Dispose(disposing: true);
        GC.SuppressFinalize(this);
    }

    protected virtual void Dispose(bool disposing)
    {
        if (disposing)
        {
            _kernel.Dispose();
        }
    }

    protected override void SetEntryLimit(uint limit) => _kernel.EntryLimit = limit;
}
