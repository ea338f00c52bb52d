using System.Globalization;
using Vfio.Linux;
using Vfio.Testing;

namespace Vfio.GuestTests;

/// <summary>The conformance tests on the real kernel, with the edu device, which is alone in its group.</summary>
[TestClass]
public sealed class Type1GuestTests : Type1ConformanceTests
{
    private static readonly Sysfs Sys = new();

    protected override IKernel Kernel => LinuxKernel.Instance;

    protected override PciAddress Device => EduDevice.Address;

    protected override int Group => int.Parse(
        Sys.TryReadLinkName($"/sys/bus/pci/devices/{EduDevice.Address}/iommu_group")!, CultureInfo.InvariantCulture);

    protected override KernelBehaviour Behaviour =>
        Environment.OSVersion.Version >= new Version(6, 18) ? KernelBehaviour.Linux618 : KernelBehaviour.Linux61;

    [TestInitialize]
    public void Bind() => GuestPci.BindToVfio(EduDevice.Address);

    protected override void SetEntryLimit(uint limit) => Sys.Write(
        "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit", limit.ToString(CultureInfo.InvariantCulture));
}
