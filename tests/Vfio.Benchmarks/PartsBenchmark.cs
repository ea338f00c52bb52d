using System.Diagnostics;
using System.Runtime;
using Vfio.Linux;

namespace Vfio.Benchmarks;

/// <summary>Where our part of a map's time goes: the clock, the way into the kernel and back, and the pinner over a kernel that does nothing.</summary>
internal static unsafe class PartsBenchmark
{
    private const ulong Page = 4096;

    public static int Run(PciAddress address)
    {
        using VfioContainer container = VfioContainer.Open();
        container.OpenDevice(address);
        using MappedMemory memory = MappedMemory.Anonymous(1024 * Page);
        new Span<byte>((void*)memory.Address, (int)memory.Length).Fill(1);
        var real = new HostAddress((ulong)memory.Address);
        var realPinner = new Pinner(container.Iommu);
        var fd = (FileDescriptor)typeof(Type1Iommu).GetField("_container", System.Reflection.BindingFlags.NonPublic | System.Reflection.BindingFlags.Instance)!.GetValue(container.Iommu)!;
        int number = fd.Number;
        double[] one = new double[512];
        void Each(string what, Action<ulong> map, Action<ulong> unmap)
        {
            var clock = Stopwatch.StartNew();
            for (int round = 0; clock.ElapsedMilliseconds < 3000; round++)
            {
                for (ulong i = 0; i < 512; i++)
                {
                    long begin = Stopwatch.GetTimestamp();
                    map(i);
                    one[i] = Measure.Nanoseconds(Stopwatch.GetTimestamp() - begin);
                }
                for (ulong i = 0; i < 512; i++)
                {
                    unmap(i);
                }
            }
            long all = Stopwatch.GetTimestamp();
            for (ulong i = 0; i < 512; i++)
            {
                map(i);
            }
            double sum = Measure.Nanoseconds(Stopwatch.GetTimestamp() - all) / 512;
            for (ulong i = 0; i < 512; i++)
            {
                unmap(i);
            }
            Array.Sort(one);
            Measure.Print($"{what}: {sum:F0} each; timed one by one 10% {one[51]:F0} 50% {one[255]:F0} 90% {one[460]:F0}");
        }
        for (int round = 0; round < 2; round++)
        {
            Each("kernel", i =>
            {
                var map = new vfio_iommu_type1_dma_map { argsz = (uint)sizeof(vfio_iommu_type1_dma_map), flags = 3, vaddr = real.Value + i * Page, iova = 0x10000000 + i * Page, size = Page };
                if (LinuxKernel.Instance.Ioctl(number, vfio.VFIO_IOMMU_MAP_DMA, &map) != 0)
                {
                    throw new InvalidOperationException();
                }
            }, i => container.Iommu.Unmap(IovaRange.Of(new Iova(0x10000000 + i * Page), Page)));
            Each("type1", i => container.Iommu.TryMap(IovaRange.Of(new Iova(0x10000000 + i * Page), Page), real + i * Page, DmaAccess.ReadWrite),
                i => container.Iommu.Unmap(IovaRange.Of(new Iova(0x10000000 + i * Page), Page)));
            Each("pinner", i => realPinner.PinPage(real + i * Page, DmaAccess.ReadWrite), i => realPinner.ReleasePage(real + i * Page));
        }

        return Run();
    }

    public static int Run()
    {
        var first = new HostAddress(0x7f00_0000_0000);
        var quiet = new QuietKernel();
        using var descriptor = new FileDescriptor(quiet, 3);
        var pinner = new Pinner(new Type1Iommu(quiet, descriptor));
        var none = new PinOptions { Populate = false };
        byte* nothing = stackalloc byte[64];
        for (int round = 0; round < 3; round++)
        {
            Part("clock", 1000, () => Stopwatch.GetTimestamp());
            Part("ioctl of no file", 1000, () => LinuxKernel.Instance.Ioctl(-1, 0, null));
            Part("pin and release a page", 1, () =>
            {
                for (ulong i = 0; i < 512; i++)
                {
                    pinner.PinPage(first + (i * Page), DmaAccess.ReadWrite);
                }

                for (ulong i = 0; i < 512; i++)
                {
                    pinner.ReleasePage(first + (i * Page));
                }
            }, 512);
            Part("register and dispose", 1000, () => pinner.Register(new PinRange(HostRange.Of(first, 512 * Page), DmaAccess.ReadWrite), none).Dispose());
        }

        return 0;
    }

    private static void Part(string what, int calls, Action step, int each = 1)
    {
        var clock = Stopwatch.StartNew();
        for (long compiled = -1; clock.ElapsedMilliseconds < 700;)
        {
            step();
            if (JitInfo.GetCompiledMethodCount() is var now && now != compiled)
            {
                compiled = now;
                clock.Restart();
            }
        }

        double best = double.MaxValue;
        for (int r = 0; r < 7; r++)
        {
            long begin = Stopwatch.GetTimestamp();
            for (int i = 0; i < calls; i++)
            {
                step();
            }

            best = Math.Min(best, Measure.Nanoseconds(Stopwatch.GetTimestamp() - begin) / calls / each);
        }

        Measure.Print($"{what}: {Measure.Text(best)} ns");
    }

    private sealed class QuietKernel : IKernel
    {
        public int Open(string path, int flags) => 3;

        public int Close(int descriptor) => 0;

        public int Ioctl(int descriptor, uint request, void* argument) => 0;

        public nint Mmap(nuint length, int protection, int flags, int descriptor, long offset) => -1;

        public int Munmap(nint address, nuint length) => 0;

        public nint Pread(int descriptor, Span<byte> buffer, long offset) => 0;

        public nint Pwrite(int descriptor, ReadOnlySpan<byte> buffer, long offset) => 0;
    }
}
