using System.Diagnostics;
using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.GuestTests;

/// <summary>The VM's virtio-blk disk, opened through VFIO, with pinned memory of its own.</summary>
internal sealed class BlockDisk : IDisposable
{
    private const ulong Page = 4096;
    private static readonly Iova Base = new(0x4000_0000);
    private readonly MappedMemory _memory;
    private readonly VfioContainer _container;
    private readonly IovaRange _range;
    private readonly int _arenaBytes;

    private BlockDisk(VfioContainer container, MappedMemory memory, VirtioBlockOptions options, VirtioBlockDevice disk)
    {
        _container = container;
        _memory = memory;
        _range = IovaRange.Of(Base, memory.Length);
        _arenaBytes = (int)AlignUp((ulong)options.ArenaBytes);
        Disk = disk;
    }

    public static PciAddress Address { get; } = PciAddress.Parse("0000:00:04.0");

    public VirtioBlockDevice Disk { get; }

    public static BlockDisk Open(VirtioBlockOptions options, int dataBytes)
    {
        GuestPci.BindToVfio(Address);
        VfioContainer container = VfioContainer.Open();
        VfioDevice device = container.OpenDevice(Address);
        MappedMemory memory = MappedMemory.Anonymous(AlignUp((ulong)options.ArenaBytes) + (ulong)dataBytes);
        container.Iommu.Map(
            IovaRange.Of(Base, memory.Length), new HostAddress((ulong)memory.Address), DmaAccess.ReadWrite);
        var arena = new PinnedBuffer(Base, new HostAddress((ulong)memory.Address), options.ArenaBytes);
        return new BlockDisk(container, memory, options, VirtioBlockDevice.Open(device, arena, options));
    }

    public PinnedBuffer Data(int offset, int length) =>
        new(Base + (ulong)(_arenaBytes + offset), new HostAddress((ulong)_memory.Address) + (ulong)(_arenaBytes + offset), length);

    public PinnedBuffer[] Buffers(int count, int length) =>
        [.. Enumerable.Range(0, count).Select(i => Data(i * length, length))];

    /// <summary>The disk as the kernel's own driver has it.</summary>
    public static FileStream OpenByKernel()
    {
        var sys = new Sysfs();
        string? driver = GuestPci.DriverOf(Address);
        if (driver != "virtio-pci")
        {
            sys.Write($"/sys/bus/pci/devices/{Address}/driver_override", "\n");
            if (driver is not null)
            {
                sys.Write($"/sys/bus/pci/drivers/{driver}/unbind", Address.ToString());
            }

            sys.Write("/sys/bus/pci/drivers_probe", Address.ToString());
        }

        var clock = Stopwatch.StartNew();
        while (!File.Exists("/dev/vda"))
        {
            Assert.IsLessThan(10, clock.Elapsed.TotalSeconds, "the kernel's driver makes no /dev/vda");
            Thread.Yield();
        }

        return new FileStream("/dev/vda", FileMode.Open, FileAccess.Read, FileShare.ReadWrite, 1 << 20);
    }

    /// <summary>The device first: it is reset before its memory goes.</summary>
    public void Dispose()
    {
        Disk.Dispose();
        _container.Iommu.Unmap(_range);
        _container.Dispose();
        _memory.Dispose();
    }

    private static ulong AlignUp(ulong bytes) => (bytes + Page - 1) / Page * Page;
}
