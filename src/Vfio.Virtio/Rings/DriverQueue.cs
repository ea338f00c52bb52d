namespace Vfio.Virtio;

/// <summary>The driver's side of a virtqueue, in either layout: add chains, publish them at once, reap what the device is done
/// with.
/// <code>
/// while (more &amp;&amp; queue.TryAdd(chain, out ushort id)) { requests[id] = ...; }
/// if (queue.Publish()) { transport.Notify(index); }
/// int n = queue.Reap(completions);
/// </code></summary>
/// <remarks>
/// <para>Not thread-safe: one thread at a time. Allocates only when it is made.</para>
/// <para>Nothing that the device could have written is trusted: which chains are out, how long they are and what they may hold is
/// kept beside the ring, and a completion that does not fit is <see cref="Error"/>.</para>
/// <para>The memory is the device's until it was reset: dispose of nothing before.</para>
/// </remarks>
public abstract class DriverQueue
{
    // Driver-written and device-written parts share no line, nor the pair of lines that a prefetcher takes.
    private const int LineBytes = 128;
    private readonly PinnedBuffer _memory;
    private readonly ulong _driverOffset;
    private readonly ulong _deviceOffset;
    private readonly ulong _tablesOffset;

    private protected DriverQueue(int size, VirtioFeatures features, PinnedBuffer memory, int indirectEntries)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(memory.Length, BytesFor(size, features, indirectEntries), nameof(memory));
        if (!memory.Iova.IsAligned(LineBytes) || !memory.Address.IsAligned(LineBytes))
        {
            throw new ArgumentException($"ring memory at {memory.Iova} is not aligned to {LineBytes} bytes", nameof(memory));
        }

        Size = size;
        HasEventIndex = features.HasFlag(VirtioFeatures.RingEventIdx);
        IsInOrder = features.HasFlag(VirtioFeatures.InOrder);
        IndirectEntries = features.HasFlag(VirtioFeatures.RingIndirectDesc) ? Math.Min(indirectEntries, size) : 0;
        (_driverOffset, _deviceOffset, _tablesOffset, _) = Layout(size, features, indirectEntries);
        _memory = memory;
        Chains = new OutstandingChain[size];
        FreeDescriptors = size;
        memory.Span[..(int)_tablesOffset].Clear();
        Addresses.Check(size, features);
    }

    /// <summary>Entries of the queue.</summary>
    public int Size { get; }

    /// <summary>Descriptors of the ring that no chain uses.</summary>
    public int FreeDescriptors { get; private protected set; }

    /// <summary>Chains added and not yet reaped, published or not.</summary>
    public int Outstanding { get; private protected set; }

    /// <summary>What the device did wrong; <see cref="RingError.None"/> while the queue is good. Stays: nothing is reaped any more,
    /// and only a reset of the device gives the memory back.</summary>
    public RingError Error { get; private protected set; }

    /// <summary>Where the ring is in this process: for a device side in the same process.</summary>
    public RingAddresses Addresses =>
        new(_memory.Address, _memory.Address + _driverOffset, _memory.Address + _deviceOffset);

    /// <summary>Where the device finds the descriptor area.</summary>
    public BusAddress DescriptorArea => BusAddress.Of(_memory.Iova);

    /// <summary>Where the device finds the driver area.</summary>
    public BusAddress DriverArea => BusAddress.Of(_memory.Iova + _driverOffset);

    /// <summary>Where the device finds the device area.</summary>
    public BusAddress DeviceArea => BusAddress.Of(_memory.Iova + _deviceOffset);

    /// <summary>Whether <see cref="Reap"/> has something to look at. A read of one word of the ring.</summary>
    public abstract bool HasCompletion { get; }

    /// <summary>The part of the ring that the device writes, for a record of what devices wrote.</summary>
    public abstract IovaRange DeviceWritten { get; }

    private protected bool HasEventIndex { get; }

    private protected bool IsInOrder { get; }

    private protected int IndirectEntries { get; }

    // By id: what was given out, as we know it.
    private protected OutstandingChain[] Chains { get; }

    // How many chains were ever added and published.
    private protected ulong Added { get; private set; }

    private protected ulong Published { get; set; }

    /// <summary>Bytes of pinned memory that a queue takes, aligned to 128 bytes.</summary>
    /// <param name="size">Entries, at most 32768, a power of two if split.</param>
    /// <param name="features">What was negotiated.</param>
    /// <param name="indirectEntries">The longest chain that is to go by an indirect table; 0 for none.</param>
    /// <returns>Bytes.</returns>
    /// <exception cref="ArgumentOutOfRangeException">There is no such queue.</exception>
    public static int BytesFor(int size, VirtioFeatures features, int indirectEntries)
    {
        if (!RingAddresses.IsValidSize(size, features))
        {
            throw new ArgumentOutOfRangeException(
                nameof(size), size, $"a queue has 1 to {RingAddresses.MaxSize} entries, a power of two if it is split");
        }

        ArgumentOutOfRangeException.ThrowIfNegative(indirectEntries);
        return Layout(size, features, indirectEntries).Total;
    }

    /// <summary>Makes a queue in the layout that was negotiated.</summary>
    /// <param name="size">Entries.</param>
    /// <param name="features">What was negotiated: RING_PACKED decides the layout.</param>
    /// <param name="memory">At least <see cref="BytesFor"/> bytes, aligned to 128. Cleared.</param>
    /// <param name="indirectEntries">The longest chain that is to go by an indirect table; 0 for none.</param>
    /// <returns>An empty queue.</returns>
    /// <exception cref="ArgumentException">The memory is too small or not aligned, or the size not valid.</exception>
    public static DriverQueue Create(int size, VirtioFeatures features, PinnedBuffer memory, int indirectEntries = 0) =>
        features.HasFlag(VirtioFeatures.RingPacked)
            ? new PackedDriverQueue(size, features, memory, indirectEntries)
            : new SplitDriverQueue(size, features, memory, indirectEntries);

    /// <summary>Whether <see cref="TryAdd"/> would take a chain now.</summary>
    /// <param name="pieces">Its length.</param>
    /// <returns>True when there are free descriptors enough.</returns>
    public bool CanAdd(int pieces) => DescriptorsFor(pieces) <= FreeDescriptors;

    /// <summary>Adds a chain. The device sees it after the next <see cref="Publish"/>.</summary>
    /// <param name="chain">Its memory, 1 to <see cref="Size"/> pieces, device-readable ones first, 2^32 bytes in total at most.</param>
    /// <param name="id">Below <see cref="Size"/>; names the chain until it is reaped.</param>
    /// <returns>False when there are too few free descriptors; reap first.</returns>
    /// <exception cref="ArgumentException">The chain is not such a one.</exception>
    public bool TryAdd(ReadOnlySpan<DmaSegment> chain, out ushort id)
    {
        uint writable = Measure(chain);
        int needed = DescriptorsFor(chain.Length);
        if (needed > FreeDescriptors)
        {
            id = 0;
            return false;
        }

        id = needed < chain.Length ? AddIndirect(chain) : AddDirect(chain);
        Chains[id] = new OutstandingChain((ushort)needed, writable, Added);
        Added++;
        FreeDescriptors -= needed;
        Outstanding++;
        return true;
    }

    /// <summary>Makes everything added visible to the device.</summary>
    /// <returns>Whether the device wants to be notified of it. False when there was nothing to publish.</returns>
    public abstract bool Publish();

    /// <summary>Takes what the device is done with.</summary>
    /// <param name="completions">Filled from the front.</param>
    /// <returns>How many. 0 when there are none, or at <see cref="Error"/>; completions before the faulty one are returned.</returns>
    public abstract int Reap(Span<Completion> completions);

    /// <summary>Asks the device to notify (interrupt) when it uses the next chain.</summary>
    /// <returns>True when it has used one already: no notification may come for it, so reap again before sleeping.</returns>
    public abstract bool EnableNotifications();

    /// <summary>Tells the device that notifications are not needed. Advice: some may come.</summary>
    public abstract void DisableNotifications();

    private protected abstract ushort AddDirect(ReadOnlySpan<DmaSegment> chain);

    private protected abstract ushort AddIndirect(ReadOnlySpan<DmaSegment> chain);

    private protected HostAddress TableOf(ushort id) =>
        _memory.Address + _tablesOffset + ((ulong)id * (ulong)IndirectEntries * Descriptor.Bytes);

    private protected BusAddress BusOf(HostAddress address) =>
        BusAddress.Of(_memory.Iova + (address - _memory.Address));

    private protected static IovaRange RangeOf(BusAddress area, uint bytes) => IovaRange.Of(new Iova(area.Value), bytes);

    // Whether a completion names a chain that the device has, and says nothing impossible of it.
    private protected bool IsPlausible(uint id, uint written)
    {
        if (id >= (uint)Size || !Chains[id].IsPublished(Published))
        {
            Error = RingError.UnknownBuffer;
            return false;
        }

        if (written > Chains[id].Writable)
        {
            Error = RingError.UsedLengthTooLarge;
            return false;
        }

        return true;
    }

    private protected Completion Finish(ushort id, uint written)
    {
        FreeDescriptors += Chains[id].Descriptors;
        Outstanding--;
        Chains[id] = default;
        return new Completion(id, written);
    }

    private int DescriptorsFor(int pieces) => pieces > 1 && pieces <= IndirectEntries ? 1 : pieces;

    private uint Measure(ReadOnlySpan<DmaSegment> chain)
    {
        if (chain.IsEmpty || chain.Length > Size)
        {
            throw new ArgumentException($"a chain has 1 to {Size} pieces, not {chain.Length}", nameof(chain));
        }

        ulong total = 0;
        ulong writable = 0;
        foreach (ref readonly DmaSegment segment in chain)
        {
            ulong length = (ulong)Math.Max(segment.Buffer.Length, 0);
            total += length;
            if (length == 0 || (segment.Access == DeviceAccess.Read && writable != 0))
            {
                throw new ArgumentException(
                    "a piece of a chain has no bytes, or is device-readable and follows a device-writable one", nameof(chain));
            }

            writable += segment.Access == DeviceAccess.Write ? length : 0;
        }

        return total <= uint.MaxValue ? (uint)writable
            : throw new ArgumentException($"a chain of {total} bytes is longer than 2^32 - 1", nameof(chain));
    }

    private static (ulong Driver, ulong Device, ulong Tables, int Total) Layout(
        int size, VirtioFeatures features, int indirectEntries)
    {
        ulong driver = UpToLine(RingAddresses.DescriptorBytes(size));
        ulong device = driver + UpToLine(RingAddresses.DriverBytes(size, features));
        ulong tables = device + UpToLine(RingAddresses.DeviceBytes(size, features));
        ulong entries = features.HasFlag(VirtioFeatures.RingIndirectDesc) ? (ulong)Math.Min(indirectEntries, size) : 0;
        return (driver, device, tables, checked((int)(tables + ((ulong)size * entries * Descriptor.Bytes))));
    }

    private static ulong UpToLine(uint bytes) => ((ulong)bytes + LineBytes - 1) / LineBytes * LineBytes;
}
