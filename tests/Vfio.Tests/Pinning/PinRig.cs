using Vfio.Linux;
using Vfio.Testing;

namespace Vfio.Tests;

/// <summary>A simulated machine with one device in a container, and that container's pinner.</summary>
internal sealed unsafe class PinRig : IDisposable
{
    public const ulong Page = 4096;

    private readonly List<MappedMemory> _memory = [];

    public PinRig(Action<SimKernel>? prepare = null)
    {
        Host = new SimHost();
        prepare?.Invoke(Host.Kernel);
        Device = Host.Add(new SimPlainDevice(PciAddress.Parse("0000:00:05.0")), group: 7);
        Container = Host.OpenContainer();
        Container.OpenDevice(Device.Address).EnableBusMaster();
        Pinner = new Pinner(Container.Iommu, Host.Sysfs);
    }

    public SimHost Host { get; }

    public SimKernel Kernel => Host.Kernel;

    public SimPlainDevice Device { get; }

    public VfioContainer Container { get; }

    public Pinner Pinner { get; }

    /// <summary>Writes a file that stands for one of the kernel's.</summary>
    public void Tell(string path, string text)
    {
        string file = Host.Sysfs.Resolve(path);
        Directory.CreateDirectory(Path.GetDirectoryName(file)!);
        File.WriteAllText(file, text);
    }

    public HostRange Memory(int pages)
    {
        MappedMemory memory = MappedMemory.Anonymous((ulong)pages * Page);
        new Span<byte>((void*)memory.Address, (int)memory.Length).Fill(1);
        _memory.Add(memory);
        return HostRange.Of(new HostAddress((ulong)memory.Address), memory.Length);
    }

    public static PinRange ReadWrite(HostRange range) => new(range, DmaAccess.ReadWrite);

    public static void Protect(HostAddress page, int protection) =>
        Assert.AreEqual(0, LibC.mprotect((nint)page.Value, (nuint)Page, protection));

    /// <summary>Nothing is pinned, the pinner knows it, and every IOVA can be had.</summary>
    public void AssertNothingPinned()
    {
        Assert.AreEqual(0, Pinner.EntriesUsed);
        Assert.AreEqual(0ul, Pinner.PinnedBytes);
        Assert.IsEmpty(Kernel.Mappings);
        Assert.AreEqual(0ul, Kernel.LockedPages);
        foreach (IovaRange valid in Container.Iommu.ValidRanges)
        {
            // All but the first page of the space, which is never handed out; a plan touches nothing, so that there is no such memory is no matter.
            ulong first = Math.Max(valid.First.Value, Page);
            PinPlan plan = Pinner.Plan(
                [ReadWrite(new HostRange(new HostAddress(first), new HostAddress(valid.Last.Value)))], new PinOptions { At = new Iova(first) });
            Assert.IsEmpty(plan.Refused, $"{valid} is not free");
        }
    }

    public void Dispose()
    {
        Container.Dispose();
        _memory.ForEach(m => m.Dispose());
        Host.Dispose();
    }
}
