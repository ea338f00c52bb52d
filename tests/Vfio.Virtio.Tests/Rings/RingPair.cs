using Vfio.Testing;

namespace Vfio.Virtio.Tests;

/// <summary>Both sides of one queue over plain memory with guard pages; the device sees it at other addresses than we do.</summary>
internal sealed class RingPair : IDisposable
{
    public const ulong RingBus = 0x40_0000_0000;
    public const ulong DataBus = 0x7_0000_0000;

    public RingPair(int size, VirtioFeatures features, int dataBytes = 65536, int indirectEntries = 8)
    {
        Features = features;
        int bytes = DriverQueue.BytesFor(size, features, indirectEntries);
        Ring = new GuardedMemory(bytes, alignment: 128);
        Data = new GuardedMemory(dataBytes);
        Driver = DriverQueue.Create(
            size, features, new PinnedBuffer(new Iova(RingBus), Ring.Address, bytes), indirectEntries);
        Device = features.HasFlag(VirtioFeatures.RingPacked)
            ? new PackedDeviceQueue(size, Driver.Addresses, features, PackedPosition.Start, PackedPosition.Start)
            : new SplitDeviceQueue(size, Driver.Addresses, features);
        Translator = new TwoPartTranslator(
            new PlainTranslator(RingBus, Ring.Address, (ulong)bytes), new PlainTranslator(DataBus, Data.Address, (ulong)dataBytes));
    }

    public VirtioFeatures Features { get; }

    public GuardedMemory Ring { get; }

    public GuardedMemory Data { get; }

    public DriverQueue Driver { get; }

    public DeviceQueue Device { get; }

    public TwoPartTranslator Translator;

    public static IEnumerable<VirtioFeatures> AllFeatures
    {
        get
        {
            VirtioFeatures[] bits =
                [VirtioFeatures.RingPacked, VirtioFeatures.RingEventIdx, VirtioFeatures.RingIndirectDesc, VirtioFeatures.InOrder];
            for (int mask = 0; mask < 1 << bits.Length; mask++)
            {
                VirtioFeatures features = VirtioFeatures.Version1;
                for (int i = 0; i < bits.Length; i++)
                {
                    features |= (mask & (1 << i)) != 0 ? bits[i] : VirtioFeatures.None;
                }

                yield return features;
            }
        }
    }

    public DmaSegment Segment(int offset, int length, DeviceAccess access) =>
        new(new PinnedBuffer(new Iova(DataBus + (ulong)offset), Data.Address + (ulong)offset, length), access);

    public void Dispose()
    {
        Ring.Dispose();
        Data.Dispose();
    }
}

/// <summary>Ring memory (for indirect tables) and data memory, nothing between.</summary>
internal struct TwoPartTranslator(PlainTranslator ring, PlainTranslator data) : ITranslator
{
    public PlainTranslator Ring = ring;
    public PlainTranslator Data = data;

    public TranslationStatus Translate(
        BusAddress address, uint length, DeviceAccess access, out HostAddress host, out uint usable) =>
        address.Value >= RingPair.RingBus
            ? Ring.Translate(address, length, access, out host, out usable)
            : Data.Translate(address, length, access, out host, out usable);
}
