// The README's program, word for word (a house test compares the two); the VM runs it.
using Vfio.Virtio;

namespace Vfio.GuestTests;

internal static class ReadFirstBlock
{
    public static void Run(TextWriter output)
    {
        PciAddress address = PciAddress.Parse("0000:00:04.0");
        using VfioContainer container = VfioContainer.Open();
        VfioDevice device = container.OpenDevice(address);

        var size = new PinnedPoolOptions { Name = "example", Size = 4 << 20, Backings = [MemoryBacking.Transparent] };
        using PinnedPool pool = PinnedPool.Create(size, new Pinner(container.Iommu));
        var options = new VirtioBlockOptions();
        PinnedBuffer rings = pool.Allocate(options.ArenaBytes);
        PinnedBuffer block = pool.Rent();
        using (VirtioBlockDevice disk = VirtioBlockDevice.Open(device, rings, options))
        {
            disk.Read(firstSector: 0, block);
        }

        output.WriteLine(Convert.ToHexString(block.Span[..64]));
        pool.Return(block);
        pool.Free(rings);
    }
}
