namespace Vfio.Linux;

[Header("linux/pci_regs.h")]
internal static class pci_regs
{
    public const int PCI_VENDOR_ID = 0x00;
    public const int PCI_DEVICE_ID = 0x02;
    public const int PCI_COMMAND = 0x04;
    public const int PCI_COMMAND_IO = 0x1;
    public const int PCI_COMMAND_MEMORY = 0x2;
    public const int PCI_COMMAND_MASTER = 0x4;
    public const int PCI_COMMAND_INTX_DISABLE = 0x400;
    public const int PCI_STATUS = 0x06;
    public const int PCI_STATUS_CAP_LIST = 0x10;
    public const int PCI_CAPABILITY_LIST = 0x34;
    public const int PCI_CAP_ID_VNDR = 0x09;
    public const int PCI_CAP_ID_MSIX = 0x11;
}
