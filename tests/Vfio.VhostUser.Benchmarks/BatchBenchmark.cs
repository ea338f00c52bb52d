using System.Diagnostics;
using System.Globalization;
using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.VhostUser.Benchmarks;

/// <summary>What a batch costs on one processor, with one thing different at a time: the epoch, loaded and stored after it, by which a poller is
/// revocable; and how the ring is reached, by addresses held ready or by looking each page up.</summary>
internal static class BatchBenchmark
{
    private const int RingSize = 256;
    private const int Batch = 32;
    private const int Batches = 10_000;
    private const int Rounds = 201;

    /// <summary>Prints nanoseconds a batch, and ratios: medians of all rounds, each of which measures everything once.</summary>
    public static void Run()
    {
        foreach (VirtioFeatures features in (VirtioFeatures[])[VirtioFeatures.Version1, VirtioFeatures.Version1 | VirtioFeatures.RingPacked])
        {
            int bytes = DriverQueue.BytesFor(RingSize, features, 0);
            using MappedMemory memory = MappedMemory.Anonymous((2 * (ulong)bytes) + 4096);
            var start = new HostAddress((ulong)memory.Address);
            (DriverQueue Driver, DeviceQueue Device) held = Ring(features, start, bytes, isScattered: false);
            (DriverQueue Driver, DeviceQueue Device) looked = Ring(features, start + (ulong)bytes, bytes, isScattered: true);
            var buffer = new PinnedBuffer(new Iova(start.Value + (2 * (ulong)bytes)), start + (2 * (ulong)bytes), 64);
            GracePeriodReader reader = new GracePeriod().Register("bench");
            reader.Unpark();
            double[][] times = [new double[Rounds], new double[Rounds], new double[Rounds]];
            // The first round is the compiler's.
            for (int round = -1; round < Rounds; round++)
            {
                double[] now = [Time(held, buffer, null), Time(held, buffer, reader), Time(looked, buffer, null)];
                for (int i = 0; round >= 0 && i < now.Length; i++)
                {
                    times[i][round] = now[i];
                }
            }

            reader.Park();
            double[] medians = [.. times.Select(Median)];
            // Of the ratios, not the ratio of these: the machine's speed changes from second to second.
            double epoch = Median(times[1].Zip(times[0], (a, b) => a / b));
            double addresses = Median(times[2].Zip(times[0], (a, b) => a / b));
            string ring = features.HasFlag(VirtioFeatures.RingPacked) ? "packed" : "split";
            Print($"epoch      {ring,-6} {medians[0]:F1} ns a batch of {Batch} without, {medians[1]:F1} ns with: {100 * (epoch - 1):F2} %");
            Print($"addresses  {ring,-6} {medians[0]:F1} ns a batch of {Batch} held ready, {medians[2]:F1} ns checked: {100 * (addresses - 1):F2} %");
        }
    }

    private static double Median(IEnumerable<double> values) => values.Order().ElementAt(Rounds / 2);

    private static void Print(FormattableString line) => Console.Out.WriteLine(line.ToString(CultureInfo.InvariantCulture));

    // Bus addresses are the host's.
    private static (DriverQueue Driver, DeviceQueue Device) Ring(VirtioFeatures features, HostAddress start, int bytes, bool isScattered)
    {
        DriverQueue driver = DriverQueue.Create(RingSize, features, new PinnedBuffer(new Iova(start.Value), start, bytes));
        RingAddresses ring = driver.Addresses;
        RingArea Area(HostAddress at, uint length) => RingArea.TryOf(new BusAddress(at.Value), [(at, length)])!;
        return (driver, DeviceQueue.Create(
            RingSize,
            !isScattered ? ring : RingAddresses.Scattered(
                Area(ring.Descriptors, RingAddresses.DescriptorBytes(RingSize)),
                Area(ring.Driver, RingAddresses.DriverBytes(RingSize, features)),
                Area(ring.Device, RingAddresses.DeviceBytes(RingSize, features))),
            features));
    }

    private static double Time((DriverQueue Driver, DeviceQueue Device) ring, PinnedBuffer buffer, GracePeriodReader? reader)
    {
        (DriverQueue driver, DeviceQueue device) = ring;
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

        public readonly bool TryTranslate(BusAddress address, uint length, DeviceAccess access, out HostAddress host)
        {
            host = new HostAddress(address.Value);
            return true;
        }

        public readonly void CountAtHand(int times)
        {
        }
    }
}
