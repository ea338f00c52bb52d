using System.Diagnostics;
using Vfio.Linux;

namespace Vfio.Benchmarks;

/// <summary>What native/bench/pin-raw.c measures of the kernel alone, through <see cref="Pinner"/>: the same memory, the same cells,
/// the same lines.</summary>
internal static unsafe class MapBenchmark
{
    private const ulong Page = 4096;
    private const ulong Huge = 2ul << 20;
    private const ulong Region = 64ul << 20;
    private const int Repeats = 31;
    private const int MostOneByOne = 512;

    public static int Run(PciAddress address)
    {
        using VfioContainer container = VfioContainer.Open();
        container.OpenDevice(address);
        var pinner = new Pinner(container.Iommu);
        foreach ((string name, MemoryBacking backing) in
            new[] { ("4k", MemoryBacking.Pages4KiB), ("thp", MemoryBacking.Transparent), ("hugetlb", MemoryBacking.Huge2MiB) })
        {
            using FileDescriptor? file = backing == MemoryBacking.Huge2MiB ? MemoryFile.Create("bench", Region + Huge, Huge) : null;
            using MappedMemory memory = file is null
                ? MappedMemory.Anonymous(Region + Huge)
                : MappedMemory.Map(file, 0, Region + Huge, writable: true, Huge);
            ulong first = ((ulong)memory.Address + Huge - 1) & ~(Huge - 1);
            if (file is null)
            {
                int advice = backing == MemoryBacking.Transparent ? Mman.MADV_HUGEPAGE : Mman.MADV_NOHUGEPAGE;
                memory.Advise(advice, "huge pages or not", first - (ulong)memory.Address, Region);
            }

            // SAFETY: inside the mapping, which nobody else uses.
            new Span<byte>((void*)first, (int)Region).Fill(1);
            // The program as it runs after its first seconds: every method compiled as it will stay.
            for (int i = 0; i < 100; i++)
            {
                OneByOne(pinner, new HostAddress(first), 8);
                Range(pinner, new HostAddress(first), 8, backing);
            }

            foreach (int pages in new[] { 1, MostOneByOne, 16384 })
            {
                Cell(pinner, name, new HostAddress(first), pages, backing);
            }
        }

        return 0;
    }

    private static void Cell(Pinner pinner, string name, HostAddress memory, int pages, MemoryBacking backing)
    {
        double[] single = new double[Repeats];
        double[] range = new double[Repeats];
        for (int r = 0; r < Repeats; r++)
        {
            single[r] = pages <= MostOneByOne ? OneByOne(pinner, memory, pages) : 0;
            range[r] = Range(pinner, memory, pages, backing);
        }

        string oneByOne = pages <= MostOneByOne ? Measure.Text(Measure.Median(single)) : "-";
        Measure.Print($"{name} {pages} {oneByOne} {Measure.Text(Measure.Median(range))}");
    }

    private static double OneByOne(Pinner pinner, HostAddress memory, int pages)
    {
        long begin = Stopwatch.GetTimestamp();
        for (int i = 0; i < pages; i++)
        {
            pinner.PinPage(memory + ((ulong)i * Page), DmaAccess.ReadWrite);
        }

        double time = Measure.Nanoseconds(Stopwatch.GetTimestamp() - begin);
        for (int i = 0; i < pages; i++)
        {
            pinner.ReleasePage(memory + ((ulong)i * Page));
        }

        return time;
    }

    private static double Range(Pinner pinner, HostAddress memory, int pages, MemoryBacking backing)
    {
        PinRange[] ranges = [new PinRange(HostRange.Of(memory, (ulong)pages * Page), DmaAccess.ReadWrite, backing)];
        var options = new PinOptions { Populate = false };
        long begin = Stopwatch.GetTimestamp();
        RegisteredMemory registered = pinner.Register(ranges, options);
        double time = Measure.Nanoseconds(Stopwatch.GetTimestamp() - begin);
        registered.Dispose();
        return time;
    }
}
