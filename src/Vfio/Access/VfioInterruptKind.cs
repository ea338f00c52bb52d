namespace Vfio;

/// <summary>The kinds of interrupt of a PCI device. The values are vfio-pci's indices (<c>VFIO_PCI_*_IRQ_INDEX</c>).</summary>
public enum VfioInterruptKind
{
    /// <summary>The legacy line: level-triggered, masked by the kernel when it fires until <see cref="VfioInterrupts.Unmask"/>.</summary>
    Intx = 0,

    /// <summary>Message-signalled interrupts.</summary>
    Msi = 1,

    /// <summary>Message-signalled interrupts, extended: a vector for each queue.</summary>
    Msix = 2,
}
