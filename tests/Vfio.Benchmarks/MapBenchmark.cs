using System.Diagnostics;
using System.Globalization;
using System.Runtime;
using System.Runtime.CompilerServices;
using Vfio.Linux;

namespace Vfio.Benchmarks;

/// <summary>What native/bench/pin-raw.c measures of the kernel alone, through <see cref="Pinner"/>: the same memory, the same cells,
/// the same lines, in and out.</summary>
internal static unsafe class MapBenchmark
{
    private const ulong Page = 4096;
    private const ulong Huge = 2ul << 20;
    private const ulong Region = 64ul << 20;
    private const int MostOneByOne = 512;

    // Calls of a cell in a turn, as pin-raw makes them.
    private const int Repeats = 21;
    private const int RepeatsOneByOne = 3;
    private const int RepeatsLarge = 9;
    private static readonly TimeSpan Quiet = TimeSpan.FromSeconds(1);

    // Where pin-raw runs, too.
    private static readonly Processor Measured = new(1);

    /// <summary>Measures on a thread of its own: threads that the runtime starts take after the first one, which may run anywhere.</summary>
    public static int Run(PciAddress address)
    {
        var thread = new Thread(() => MeasureCells(address));
        thread.Start();
        thread.Join();
        return 0;
    }

    private static void MeasureCells(PciAddress address)
    {
        using VfioContainer container = VfioContainer.Open();
        container.OpenDevice(address);
        var pinner = new Pinner(container.Iommu);
        var memory = new Dictionary<string, (MemoryBacking Backing, MappedMemory Memory, HostAddress First)>
        {
            ["4k"] = Allocate(MemoryBacking.Pages4KiB),
            ["thp"] = Allocate(MemoryBacking.Transparent),
            ["hugetlb"] = Allocate(MemoryBacking.Huge2MiB),
        };
        Measured.PinCurrentThread();
        WarmUp(pinner, memory.Values);
        while (Console.In.ReadLine()?.Split(' ') is [string name, string pages])
        {
            Cell(pinner, name, memory[name].First, int.Parse(pages, CultureInfo.InvariantCulture), memory[name].Backing);
        }

        foreach ((_, MappedMemory mapped, _) in memory.Values)
        {
            mapped.Dispose();
        }
    }

    private static (MemoryBacking Backing, MappedMemory Memory, HostAddress First) Allocate(MemoryBacking backing)
    {
        using FileDescriptor? file = backing == MemoryBacking.Huge2MiB ? MemoryFile.Create("bench", Region + Huge, Huge) : null;
        MappedMemory memory = file is null
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
        return (backing, memory, new HostAddress(first));
    }

    // The program as it runs after its first seconds, with the runtime's default settings, which are the daemon's: every kind of call
    // that is measured, until the compiler, which replaces busy methods in the background, has had nothing to do for a while.
    private static void WarmUp(Pinner pinner, IReadOnlyCollection<(MemoryBacking Backing, MappedMemory Memory, HostAddress First)> memory)
    {
        var quiet = Stopwatch.StartNew();
        for (long compiled = -1; quiet.Elapsed < Quiet;)
        {
            foreach ((MemoryBacking backing, _, HostAddress first) in memory)
            {
                for (int i = 0; i < 10; i++)
                {
                    OneByOne(pinner, first, 8);
                    Range(pinner, first, 1, backing);
                    Range(pinner, first, MostOneByOne, backing);
                }
            }

            if (JitInfo.GetCompiledMethodCount() is var now && now != compiled)
            {
                compiled = now;
                quiet.Restart();
            }
        }
    }

    private static void Cell(Pinner pinner, string name, HostAddress memory, int pages, MemoryBacking backing)
    {
        double[] single = new double[pages == 1 ? Repeats : pages <= MostOneByOne ? RepeatsOneByOne : 0];
        double[] range = new double[pages <= MostOneByOne ? Repeats : RepeatsLarge];
        for (int r = 0; r < single.Length; r++)
        {
            single[r] = OneByOne(pinner, memory, pages);
        }

        for (int r = 0; r < range.Length; r++)
        {
            range[r] = Range(pinner, memory, pages, backing);
        }

        string oneByOne = single.Length > 0 ? Measure.Text(Measure.Median(single)) : "-";
        Measure.Print($"{name} {pages} {oneByOne} {Measure.Text(Measure.Median(range))}");
    }

    // Not part of the loop that warms it up: the compiler would leave the calls from elsewhere as they were.
    [MethodImpl(MethodImplOptions.NoInlining)]
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

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static double Range(Pinner pinner, HostAddress memory, int pages, MemoryBacking backing)
    {
        var range = new PinRange(HostRange.Of(memory, (ulong)pages * Page), DmaAccess.ReadWrite, backing);
        var options = new PinOptions { Populate = false };
        long begin = Stopwatch.GetTimestamp();
        RegisteredMemory registered = pinner.Register(range, options);
        double time = Measure.Nanoseconds(Stopwatch.GetTimestamp() - begin);
        registered.Dispose();
        return time;
    }
}
