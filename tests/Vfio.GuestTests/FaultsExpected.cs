namespace Vfio.GuestTests;

/// <summary>Tells the run's check of the kernel log that DMA faults are provoked on purpose while this object lives
/// (the markers that <c>tools/vm</c> describes).</summary>
internal sealed class FaultsExpected : IDisposable
{
    public FaultsExpected() => File.WriteAllText("/dev/kmsg", "vfiopin-test: faults expected\n");

    public void Dispose() => File.WriteAllText("/dev/kmsg", "vfiopin-test: faults over\n");
}
