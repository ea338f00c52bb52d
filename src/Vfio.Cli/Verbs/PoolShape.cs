using System.CommandLine;
using Vfio.Service;

namespace Vfio.Cli.Verbs;

/// <summary>The options that say what a pool shall be like.</summary>
internal sealed class PoolShape(bool needsDevice)
{
    private readonly Option<ulong?> _size = SizeParser.Option("--size", "Bytes, a multiple of the page size", required: true);

    private readonly Option<PageSizeList> _pageSizes = PageSizeList.Option("Pages", "2MiB");

    private readonly Option<PciAddress[]> _devices = AddressParser.Option(
        "--device", "A device on vfio-pci that shall reach the pool; may be said more than once", needsDevice);

    private readonly Option<ulong?> _grain = SizeParser.Option(
        "--grain", "Bytes that shall be possible to free alone: no map is larger");

    private readonly Option<ulong?> _bufferSize = SizeParser.Option(
        "--buffer-size", "Bytes of a buffer, a power of two [default: 64KiB]");

    private readonly Option<int?> _node = new("--numa-node")
    {
        Description = "The NUMA node to take pages from [default: the device's]",
        HelpName = "N",
    };

    public Symbol[] Options => [_size, _pageSizes, _devices, _grain, _bufferSize, _node];

    public PoolRequest Request(Invocation run, string name)
    {
        var request = new PoolRequest(name, run.Get(_size) ?? 0)
        {
            PageSizes = run.Get(_pageSizes)!.Names,
            Devices = run.Get(_devices) ?? [],
            Grain = run.Get(_grain) ?? 0,
            Node = run.Get(_node),
        };
        return run.Get(_bufferSize) switch
        {
            null => request,
            > 1ul << 30 => throw new UsageException("--buffer-size: a buffer has at most 1GiB"),
            ulong size => request with { BufferSize = (int)size },
        };
    }
}
