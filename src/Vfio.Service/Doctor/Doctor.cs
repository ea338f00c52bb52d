using Vfio.Linux;

namespace Vfio.Service;

/// <summary>Looks at everything that VFIO needs, before anything is tried, and says what cures what is wrong. Changes nothing:
/// no driver, no limit; a free group is attached to a container for as long as its limits are read, no device is opened.</summary>
/// <param name="kernel">The kernel; the running one by default.</param>
/// <param name="sysfs">Where <c>/sys</c>, <c>/proc</c> and <c>/dev</c> are; the real ones by default.</param>
public sealed class Doctor(IKernel? kernel = null, Sysfs? sysfs = null)
{
    private readonly IKernel _kernel = kernel ?? LinuxKernel.Instance;
    private readonly PciBus _bus = new(sysfs);

    /// <summary>Looks.</summary>
    /// <param name="address">The device that shall be used, or null for the machine alone.</param>
    /// <param name="size">Bytes that shall be pinned, or null where that is not known yet.</param>
    /// <param name="daemon">What the daemon says of itself, or null where none can be asked. Where one runs, it is the one that pins.</param>
    /// <param name="whyNoDaemon">Why there is none to be asked, for the line that then tells about this process.</param>
    /// <returns>What was found.</returns>
    public DoctorReport Examine(
        PciAddress? address = null, ulong? size = null, DaemonInfo? daemon = null, string whyNoDaemon = "no daemon was asked")
    {
        var findings = new List<Finding>();
        findings.AddRange(MachineFindings.Of(_bus));
        findings.AddRange(VfioFindings.Of(_bus));
        findings.AddRange(MemoryFindings.Of(_bus.Sysfs, size, daemon, whyNoDaemon));
        findings.AddRange(address is PciAddress one ? DeviceFindings.Of(_bus, one) : DeviceFindings.OfAll(_bus));
        findings.AddRange(ContainerFindings.Of(_kernel, _bus, address));
        return new DoctorReport(findings);
    }
}
