using System.Diagnostics;
using System.Globalization;
using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.VhostUser.Benchmarks;

/// <summary>What a poller pays for being revocable: batches of a ring with the epoch's store after each and without it, in turn, on
/// one processor, where nothing but that store differs.</summary>
internal static class EpochBenchmark
{
    private const int RingSize = 256;
    private const int Batch = 32;
    private const int Batches = 200_000;
    private const int Rounds = 21;

    /// <summary>Prints nanoseconds a batch, medians, and their ratio.</summary>
    public static void Run()
    {
        int bytes = DriverQueue.BytesFor(RingSize, VirtioFeatures.Version1, 0);
        using MappedMemory memory = MappedMemory.Anonymous((ulong)bytes + 4096);
        var start = new HostAddress((ulong)memory.Address);
        // Bus addresses are the host's.
        DriverQueue driver = DriverQueue.Create(
            RingSize, VirtioFeatures.Version1, new PinnedBuffer(new Iova(start.Value), start, bytes));
        DeviceQueue device = new SplitDeviceQueue(RingSize, driver.Addresses, VirtioFeatures.Version1);
        var buffer = new PinnedBuffer(new Iova(start.Value + (ulong)bytes), start + (ulong)bytes, 64);
        GracePeriodReader reader = new GracePeriod().Register("bench");
        reader.Unpark();
        double[] with = new double[Rounds];
        double[] without = new double[Rounds];
        // The first round is the compiler's.
        for (int round = -1; round < Rounds; round++)
        {
            double plain = Time(driver, device, buffer, null);
            double epoch = Time(driver, device, buffer, reader);
            if (round >= 0)
            {
                (without[round], with[round]) = (plain, epoch);
            }
        }

        reader.Park();
        Array.Sort(with);
        Array.Sort(without);
        double a = without[Rounds / 2];
        double b = with[Rounds / 2];
        Console.Out.WriteLine(string.Create(CultureInfo.InvariantCulture,
            $"epoch      {a:F1} ns a batch of {Batch} without, {b:F1} ns with: {100 * ((b / a) - 1):F2} %"));
    }

    private static double Time(DriverQueue driver, DeviceQueue device, PinnedBuffer buffer, GracePeriodReader? reader)
    {
        var identity = default(Identity);
        var chains = new DescriptorChain[Batch];
        var segments = new HostSegment[Batch];
        var used = new UsedChain[Batch];
        var completions = new Completion[Batch];
        var chain = new DmaSegment[] { new(buffer, DeviceAccess.Read) };
        long begin = Stopwatch.GetTimestamp();
        for (int i = 0; i < Batches; i++)
        {
            for (int n = 0; n < Batch; n++)
            {
                driver.TryAdd(chain, out _);
            }

            driver.Publish();
            int count = device.Peek(ref identity, chains, segments);
            for (int n = 0; n < count; n++)
            {
                used[n] = chains[n].Used(0);
            }

            device.Consume(chains.AsSpan(0, count));
            device.Complete(used.AsSpan(0, count));
            device.Publish();
            reader?.Quiesce();
            driver.Reap(completions);
        }

        return Stopwatch.GetElapsedTime(begin).TotalNanoseconds / Batches;
    }

    private struct Identity : ITranslator
    {
        public readonly TranslationStatus Translate(
            BusAddress address, uint length, DeviceAccess access, out HostAddress host, out uint usable)
        {
            host = new HostAddress(address.Value);
            usable = length;
            return TranslationStatus.Translated;
        }
    }
}
