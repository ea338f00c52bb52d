namespace Vfio.Virtio;

/// <summary>Where the three parts of a ring are in this process (virtio 1.3, 2.6 "Virtqueues"). Of a ring that
/// <see cref="IsScattered"/> these are the parts' first bytes, and what follows them is elsewhere: only
/// <see cref="DeviceQueue.Create"/> can reach it.</summary>
/// <param name="Descriptors">The descriptor area: descriptor table (split), descriptor ring (packed). Aligned to 16.</param>
/// <param name="Driver">The driver area: available ring (split, aligned to 2), driver event suppression (packed, aligned to 4).</param>
/// <param name="Device">The device area: used ring (split) or device event suppression (packed). Aligned to 4.</param>
public readonly record struct RingAddresses(HostAddress Descriptors, HostAddress Driver, HostAddress Device)
{
    /// <summary>The longest queue, in entries (virtio 1.3, 2.7 "Split Virtqueues" and 2.8.1).</summary>
    public const int MaxSize = 32768;

    /// <summary>The parts page by page, of a ring that does not lie in three pieces; null for one that does.</summary>
    internal RingAreas? Areas { get; private init; }

    /// <summary>Whether it was made by <see cref="Scattered"/>.</summary>
    public bool IsScattered => Areas is not null;

    /// <summary>A ring of which a part or more does not lie in one piece. It is slower: each access looks its page up.</summary>
    /// <param name="descriptors">The descriptor area.</param>
    /// <param name="driver">The driver area.</param>
    /// <param name="device">The device area.</param>
    /// <returns>Where each part starts, and how it goes on.</returns>
    public static RingAddresses Scattered(RingArea descriptors, RingArea driver, RingArea device)
    {
        ArgumentNullException.ThrowIfNull(descriptors);
        ArgumentNullException.ThrowIfNull(driver);
        ArgumentNullException.ThrowIfNull(device);
        return new RingAddresses(descriptors.First, driver.First, device.First) { Areas = new RingAreas(descriptors, driver, device) };
    }

    /// <summary>Bytes of the descriptor area, in either layout.</summary>
    /// <param name="size">Entries of the queue.</param>
    /// <returns>Bytes.</returns>
    public static uint DescriptorBytes(int size) => 16 * (uint)size;

    /// <summary>Bytes of the driver area. Always with room for the event index, whether negotiated or not.</summary>
    /// <param name="size">Entries of the queue.</param>
    /// <param name="features">What was negotiated: decides the layout.</param>
    /// <returns>Bytes.</returns>
    // virtio 1.3, 2.7 "Split Virtqueues": 6 + 2 * Queue Size.
    public static uint DriverBytes(int size, VirtioFeatures features) =>
        features.HasFlag(VirtioFeatures.RingPacked) ? 4 : 6 + (2 * (uint)size);

    /// <summary>Bytes of the device area. Always with room for the event index, whether negotiated or not.</summary>
    /// <param name="size">Entries of the queue.</param>
    /// <param name="features">What was negotiated: decides the layout.</param>
    /// <returns>Bytes.</returns>
    // virtio 1.3, 2.7 "Split Virtqueues": 6 + 8 * Queue Size.
    public static uint DeviceBytes(int size, VirtioFeatures features) =>
        features.HasFlag(VirtioFeatures.RingPacked) ? 4 : 6 + (8 * (uint)size);

    /// <summary>Whether a queue can be so long.</summary>
    /// <param name="size">Entries.</param>
    /// <param name="features">What was negotiated: a split queue's size is a power of two.</param>
    /// <returns>True when it can.</returns>
    public static bool IsValidSize(int size, VirtioFeatures features) =>
        size is > 0 and <= MaxSize
        && (features.HasFlag(VirtioFeatures.RingPacked) || System.Numerics.BitOperations.IsPow2(size));

    /// <summary>Whether each part lies as the layout wants it.</summary>
    /// <param name="features">What was negotiated: decides the layout.</param>
    /// <returns>True when it does, and no part is at 0.</returns>
    public bool IsAligned(VirtioFeatures features) =>
        Descriptors.Value != 0 && Driver.Value != 0 && Device.Value != 0
        && Descriptors.IsAligned(16)
        && Driver.IsAligned(features.HasFlag(VirtioFeatures.RingPacked) ? 4u : 2u)
        && Device.IsAligned(4);

    private IRingMemory Memory => Areas is { } areas ? new PagedRing(areas) : new FlatRing(this);

    // The three below are for whoever takes a ring over from a dead device: single reads of what it and the driver wrote, any value of which
    // is to be checked. SAFETY: the maker of the ring vouched for its parts.

    /// <summary>Reads a split ring's available index.</summary>
    internal unsafe ushort ReadAvailIndex() =>
        // ORDER: acquire, as the rest of the ring is read behind it; pairs with the driver's release.
        Barriers.ReadAcquire(Memory.Driver(1));

    /// <summary>Reads a split ring's used index.</summary>
    internal unsafe ushort ReadUsedIndex() =>
        // ORDER: as above; pairs with the dead device's release.
        Barriers.ReadAcquire(Memory.Device(1));

    /// <summary>Reads the upper half of a packed ring's descriptor: <see cref="PackedDescriptor.Control"/>.</summary>
    /// <param name="slot">Below the ring's size.</param>
    internal unsafe ulong ReadControl(int slot) =>
        // ORDER: as above; pairs with the release of whichever side wrote it last.
        Barriers.ReadAcquire(Memory.Descriptor((uint)slot) + 1);

    internal void Check(int size, VirtioFeatures features)
    {
        if (!IsValidSize(size, features))
        {
            throw new ArgumentOutOfRangeException(
                nameof(size), size, $"a queue has 1 to {MaxSize} entries, a power of two if it is split");
        }

        if (Areas is { } areas && (areas.Descriptors.Length < DescriptorBytes(size)
            || areas.Driver.Length < DriverBytes(size, features) || areas.Device.Length < DeviceBytes(size, features)))
        {
            throw new ArgumentException($"a part of the ring is too short for {size} entries", nameof(size));
        }

        if (!IsAligned(features))
        {
            throw new ArgumentException($"a part of the ring is missing or not aligned: {this}", nameof(features));
        }
    }

    internal sealed record RingAreas(RingArea Descriptors, RingArea Driver, RingArea Device);
}
