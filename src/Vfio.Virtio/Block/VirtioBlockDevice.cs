using System.Buffers.Binary;
using System.Diagnostics;
using Microsoft.Extensions.ObjectPool;
using Vfio.Linux;

namespace Vfio.Virtio;

/// <summary>Drives a virtio block device (virtio 1.3, 5.2 "Block Device"): reads, writes and flushes by DMA, to and from
/// pinned memory, with many requests in flight.
/// <code>
/// using var disk = VirtioBlockDevice.Open(device, pool.Allocate(options.ArenaBytes), options);
/// disk.Read(0, buffer);
/// </code></summary>
/// <remarks>
/// <para>Not thread-safe: one thread at a time.</para>
/// <para>A buffer of a request is the device's until its completion was polled, or until this object was disposed: disposing
/// resets the device first, so that memory may be unmapped after it. An exception of a transfer leaves no request in flight.</para>
/// </remarks>
public sealed class VirtioBlockDevice : IDisposable
{
    private const int ConfigurationBytes = 36;
    private const int SpinsBeforeYield = 100;

    private readonly VirtioPciTransport _transport;
    private readonly VirtioBlockOptions _options;
    private readonly DriverQueue _queue;
    private readonly VfioInterrupts? _interrupts;
    private readonly DefaultObjectPool<BlockRequest> _requests;
    private readonly BlockRequest?[] _inFlight;
    private readonly DmaSegment[] _chain = new DmaSegment[VirtioBlockOptions.ChainLength];
    private readonly Completion[] _completions = new Completion[64];
    private bool _stopped;
    private bool _wasReset;

    private VirtioBlockDevice(
        VirtioPciTransport transport,
        VirtioBlockOptions options,
        DriverQueue queue,
        VfioInterrupts? interrupts,
        VirtioBlockInfo info,
        PinnedBuffer requests)
    {
        _transport = transport;
        _options = options;
        _queue = queue;
        _interrupts = interrupts;
        _requests = new DefaultObjectPool<BlockRequest>(new BlockRequestPolicy(requests), options.Depth);
        _inFlight = new BlockRequest?[queue.Size];
        Info = info;
    }

    /// <summary>What the device says of itself.</summary>
    public VirtioBlockInfo Info { get; }

    /// <summary>Requests in flight.</summary>
    public int InFlight => _stopped ? 0 : _queue.Outstanding;

    /// <summary>Bytes of the longest request: see <see cref="VirtioBlockInfo.MaxSegmentBytes"/>.</summary>
    public int MaxRequestBytes
    {
        get
        {
            ulong pieces = Math.Min(Info.MaxSegments, (uint)DataPieces);
            ulong bytes = Info.MaxSegmentBytes is { } piece ? pieces * piece : int.MaxValue;
            ulong block = Info.BlockSize;
            return (int)(Math.Min(bytes, int.MaxValue) / block * block);
        }
    }

    private int PieceBytes => (int)Math.Min(Info.MaxSegmentBytes ?? int.MaxValue, int.MaxValue);

    // Without indirect tables a chain takes as many descriptors as it has pieces.
    private int DataPieces => Math.Min(VirtioBlockOptions.MaxDataSegments, _queue.Size - 2);

    /// <summary>Takes a block device into use.</summary>
    /// <param name="device">The device, held through VFIO; it stays its owner's.</param>
    /// <param name="arena">Pinned memory that the device reaches, at least <see cref="VirtioBlockOptions.ArenaBytes"/>, aligned to
    /// 128. It is this object's until that is disposed.</param>
    /// <param name="options">How to drive it.</param>
    /// <returns>The device, ready for requests.</returns>
    /// <exception cref="VirtioException">It is no virtio block device, lacks a required feature, or does not keep to the
    /// specification. It is reset then.</exception>
    /// <exception cref="LinuxException">A register could not be reached, or the interrupts not be switched on.</exception>
    public static VirtioBlockDevice Open(VfioDevice device, PinnedBuffer arena, VirtioBlockOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(device);
        options ??= new VirtioBlockOptions();
        ArgumentOutOfRangeException.ThrowIfLessThan(arena.Length, options.ArenaBytes, nameof(arena));
        VirtioPciTransport transport = OpenTransport(device);
        VfioInterrupts? interrupts = null;
        try
        {
            VirtioFeatures features = transport.Negotiate(
                (VirtioFeatures)(VirtioBlockFeatures.SizeMax | VirtioBlockFeatures.SegMax | VirtioBlockFeatures.ReadOnly
                    | VirtioBlockFeatures.BlockSize | VirtioBlockFeatures.Flush | VirtioBlockFeatures.Topology)
                | (options.RingFeatures & RingFeatures));
            int size = Math.Min(options.QueueSize, transport.MaxQueueSize(0));
            if (size < 3)
            {
                throw transport.Fail($"its queue has {size} entries", "a request needs at least three");
            }

            // virtio 1.3, 2.7: a split queue's size is a power of two; a device that says otherwise gets the next lower one.
            size = features.HasFlag(VirtioFeatures.RingPacked) ? size : 1 << System.Numerics.BitOperations.Log2((uint)size);
            VirtioBlockInfo info = ReadInfo(transport, features, size);
            DriverQueue queue = DriverQueue.Create(
                size, features, arena.Slice(0, options.QueueBytes), VirtioBlockOptions.ChainLength);
            if (options.UseInterrupts)
            {
                interrupts = EnableInterrupts(device);
            }

            transport.SetConfigurationVector(null);
            transport.EnableQueue(0, queue, interrupts is null ? null : 0);
            var disk = new VirtioBlockDevice(
                transport, options, queue, interrupts, info,
                arena.Slice(options.QueueBytes, arena.Length - options.QueueBytes));
            queue.DisableNotifications();
            transport.Start();
            return disk;
        }
        catch
        {
            try
            {
                transport.Reset();
            }
            finally
            {
                interrupts?.Dispose();
            }

            throw;
        }
    }

    /// <summary>Starts a read. <see cref="Submit"/> hands it to the device.</summary>
    /// <param name="firstSector">Where on the device, a multiple of the block size.</param>
    /// <param name="buffer">Where to, a whole number of blocks, at most <see cref="MaxRequestBytes"/>.</param>
    /// <param name="token">Comes back with the completion.</param>
    /// <returns>False when as many requests as wanted are in flight: poll first.</returns>
    /// <exception cref="VirtioException">The range is not on the device, or not whole blocks. Nothing was done.</exception>
    public bool TryRead(ulong firstSector, PinnedBuffer buffer, long token) =>
        TryStart(BlockOperation.Read, CheckRange("read", firstSector, buffer), buffer, token);

    /// <summary>Starts a write. <see cref="Submit"/> hands it to the device.</summary>
    /// <param name="firstSector">Where on the device, a multiple of the block size.</param>
    /// <param name="buffer">Where from, a whole number of blocks, at most <see cref="MaxRequestBytes"/>.</param>
    /// <param name="token">Comes back with the completion.</param>
    /// <returns>False when as many requests as wanted are in flight: poll first.</returns>
    /// <exception cref="VirtioException">The device is read-only, the range not on it, or not whole blocks. Nothing was done.</exception>
    public bool TryWrite(ulong firstSector, PinnedBuffer buffer, long token)
    {
        SectorRange sectors = CheckRange("write", firstSector, buffer);
        return !Info.IsReadOnly
            ? TryStart(BlockOperation.Write, sectors, buffer, token)
            : throw new VirtioException(_transport.Address, $"write of sectors {sectors}", "the device is read-only (VIRTIO_BLK_F_RO)",
                "in QEMU: readonly=off on the -drive or -blockdev option");
    }

    /// <summary>Starts a flush: writes that completed before are on the medium when it completes.</summary>
    /// <param name="token">Comes back with the completion.</param>
    /// <returns>False when as many requests as wanted are in flight: poll first.</returns>
    /// <exception cref="VirtioException">The device cannot flush, which means that it has no volatile cache.</exception>
    public bool TryFlush(long token) =>
        Info.HasFlush
            ? TryStart(BlockOperation.Flush, null, default, token)
            : throw new VirtioException(_transport.Address, "flush", "the device does not offer VIRTIO_BLK_F_FLUSH: it keeps no volatile cache",
                "nothing needs to be flushed; in QEMU: cache=writeback on the -drive option for a device that has one");

    /// <summary>Hands everything started since the last time to the device.</summary>
    public void Submit()
    {
        if (_queue.Publish())
        {
            _transport.Notify(0);
        }
    }

    /// <summary>Takes what the device has ended, without waiting.</summary>
    /// <param name="completions">Filled from the front.</param>
    /// <returns>How many.</returns>
    /// <exception cref="VirtioException">The device answered nonsense. It was reset: nothing is in flight any more, and this object
    /// can only be disposed.</exception>
    public int Poll(Span<BlockCompletion> completions)
    {
        ThrowIfStopped();
        int wanted = Math.Min(completions.Length, _completions.Length);
        int count = _queue.Reap(_completions.AsSpan(0, wanted));
        for (int i = 0; i < count; i++)
        {
            completions[i] = Finish(_completions[i]);
        }

        if (count != 0)
        {
            _options.DeviceWrote?.Invoke(_queue.DeviceWritten);
        }

        return _queue.Error == RingError.None ? count
            : throw Stop($"it answered with a ring error: {_queue.Error}", "the device does not keep to the specification");
    }

    /// <summary>Waits until the device has ended a request, by interrupt or by polling. Returns early at times: poll again.</summary>
    /// <param name="cancellation">Ends the wait.</param>
    /// <exception cref="OperationCanceledException">It was cancelled; requests are still in flight.</exception>
    /// <exception cref="VirtioException">The device ended none in time, or needs a reset. It was reset: nothing is in flight any
    /// more, and this object can only be disposed.</exception>
    public void Wait(CancellationToken cancellation = default)
    {
        ThrowIfStopped();
        long start = Stopwatch.GetTimestamp();
        for (int spin = 1; !_queue.HasCompletion; spin++)
        {
            if (spin % SpinsBeforeYield != 0 && _interrupts is null)
            {
                Thread.SpinWait(10);
                continue;
            }

            cancellation.ThrowIfCancellationRequested();
            if (_transport.NeedsReset)
            {
                throw Stop("it asks for a reset (DEVICE_NEEDS_RESET)", "the device met an error that it cannot recover from",
                    "look at the log of the hypervisor, and open the device again");
            }

            if (Stopwatch.GetElapsedTime(start) > _options.Timeout)
            {
                throw Stop($"it ended none of {InFlight} requests within {_options.Timeout.TotalSeconds:0} s", "the device or its medium hangs");
            }

            if (_interrupts is null)
            {
                _ = Thread.Yield();
            }
            else
            {
                Sleep(_interrupts.Vectors[0]);
            }
        }
    }

    /// <summary>Reads sectors and waits for them.</summary>
    /// <param name="firstSector">Where on the device, a multiple of the block size.</param>
    /// <param name="buffer">Where to, a whole number of blocks, at most <see cref="MaxRequestBytes"/>.</param>
    /// <exception cref="VirtioException">The range is not on the device, or the device failed.</exception>
    /// <exception cref="InvalidOperationException">Other requests are in flight.</exception>
    public void Read(ulong firstSector, PinnedBuffer buffer) => RunOne(() => TryRead(firstSector, buffer, 0));

    /// <summary>Writes sectors and waits for them.</summary>
    /// <param name="firstSector">Where on the device, a multiple of the block size.</param>
    /// <param name="buffer">Where from, a whole number of blocks, at most <see cref="MaxRequestBytes"/>.</param>
    /// <exception cref="VirtioException">The device is read-only, the range not on it, or the device failed.</exception>
    /// <exception cref="InvalidOperationException">Other requests are in flight.</exception>
    public void Write(ulong firstSector, PinnedBuffer buffer) => RunOne(() => TryWrite(firstSector, buffer, 0));

    /// <summary>Flushes and waits for it.</summary>
    /// <exception cref="VirtioException">The device cannot flush, or failed.</exception>
    /// <exception cref="InvalidOperationException">Other requests are in flight.</exception>
    public void Flush() => RunOne(() => TryFlush(0));

    /// <summary>The exception for a request that the device did not do.</summary>
    /// <param name="completion">The request, with a status other than <see cref="BlockStatus.Ok"/>.</param>
    /// <returns>The exception, to throw.</returns>
    public VirtioException Failure(in BlockCompletion completion)
    {
        string what = completion.Operation switch
        {
            BlockOperation.Read => $"read of sectors {completion.Sectors}",
            BlockOperation.Write => $"write of sectors {completion.Sectors}",
            _ => "flush",
        };
        return completion.Status == BlockStatus.Unsupported
            ? new VirtioException(_transport.Address, what, "the device does not support the request (VIRTIO_BLK_S_UNSUPP)")
            : new VirtioException(_transport.Address, what, "the device failed the request (VIRTIO_BLK_S_IOERR)",
                "look at the medium behind the device: the log of the hypervisor or of the host");
    }

    /// <summary>Resets the device and forgets what was in flight. Memory may be unmapped after this.</summary>
    /// <exception cref="VirtioException">The device does not come back from the reset; memory that it knows must stay mapped until
    /// the <see cref="VfioDevice"/> is closed. Disposing again tries again, so that nobody takes the memory for free.</exception>
    public void Dispose()
    {
        _stopped = true;
        if (!_wasReset)
        {
            try
            {
                _transport.Reset();
                _wasReset = true;
            }
            finally
            {
                _interrupts?.Dispose();
            }
        }
    }

    /// <summary>Whether another request with this buffer would be taken now.</summary>
    internal bool HasRoomFor(PinnedBuffer buffer) =>
        _queue.Outstanding < _options.Depth && _queue.CanAdd(2 + Pieces(buffer.Length));

    /// <summary>Ends every request in flight: by waiting for it while the device answers, by a reset where it does not.</summary>
    internal void Drain()
    {
        Span<BlockCompletion> ended = new BlockCompletion[32];
        while (InFlight != 0)
        {
            Wait();
            _ = Poll(ended);
        }
    }

    private const VirtioFeatures RingFeatures =
        VirtioFeatures.RingEventIdx | VirtioFeatures.RingIndirectDesc | VirtioFeatures.RingPacked | VirtioFeatures.InOrder;

    private static VirtioPciTransport OpenTransport(VfioDevice device)
    {
        ushort vendor = device.Configuration.Read16(pci_regs.PCI_VENDOR_ID);
        ushort type = device.Configuration.Read16(pci_regs.PCI_DEVICE_ID);
        // virtio 1.3, 4.1.2 "PCI Device Discovery": 0x1040 + device type; 0x1001 is the transitional form of type 2.
        return vendor == 0x1AF4 && type is 0x1042 or 0x1001
            ? VirtioPciTransport.Open(device)
            : throw new VirtioException(device.Address, $"PCI device {vendor:x4}:{type:x4} is no virtio block device",
                "a virtio block device is 1af4:1042", "vfiopin device list shows what each device is");
    }

    private static VirtioBlockInfo ReadInfo(VirtioPciTransport transport, VirtioFeatures features, int queueSize)
    {
        var block = (VirtioBlockFeatures)features;
        Span<byte> configuration = stackalloc byte[ConfigurationBytes];
        configuration.Clear();
        if (transport.ReadConfiguration(configuration) < sizeof(ulong))
        {
            throw transport.Fail("it has no configuration", "the device does not keep to the specification");
        }

        uint blockSize = block.HasFlag(VirtioBlockFeatures.BlockSize)
            ? BinaryPrimitives.ReadUInt32LittleEndian(configuration[20..]) : SectorRange.SectorBytes;
        uint sizeMax = BinaryPrimitives.ReadUInt32LittleEndian(configuration[8..]);
        uint segMax = BinaryPrimitives.ReadUInt32LittleEndian(configuration[12..]);
        if (blockSize < SectorRange.SectorBytes || blockSize % SectorRange.SectorBytes != 0 || blockSize > 1 << 20)
        {
            throw transport.Fail($"it says that its blocks have {blockSize} bytes", "the device does not keep to the specification");
        }

        return new VirtioBlockInfo(
            BinaryPrimitives.ReadUInt64LittleEndian(configuration),
            blockSize,
            block.HasFlag(VirtioBlockFeatures.SizeMax) && sizeMax != 0 ? sizeMax : null,
            block.HasFlag(VirtioBlockFeatures.SegMax) && segMax != 0 ? segMax : 1,
            block.HasFlag(VirtioBlockFeatures.Topology)
                ? new VirtioBlockTopology(
                    configuration[24], configuration[25], BinaryPrimitives.ReadUInt16LittleEndian(configuration[26..]),
                    BinaryPrimitives.ReadUInt32LittleEndian(configuration[28..]))
                : null,
            block.HasFlag(VirtioBlockFeatures.ReadOnly),
            block.HasFlag(VirtioBlockFeatures.Flush),
            features & ~(VirtioFeatures)0xFF_FFFF,
            queueSize);
    }

    private static VfioInterrupts EnableInterrupts(VfioDevice device) =>
        device.CountInterrupts(VfioInterruptKind.Msix) > 0
            ? device.EnableInterrupts(VfioInterruptKind.Msix, 1)
            : throw new VirtioException(device.Address, "it has no MSI-X interrupts", null, "poll instead");

    private SectorRange CheckRange(string what, ulong firstSector, PinnedBuffer buffer)
    {
        uint block = Info.BlockSize;
        if (buffer.Length <= 0 || buffer.Length % block != 0 || firstSector % (block / SectorRange.SectorBytes) != 0)
        {
            throw new VirtioException(_transport.Address, $"{what} of {buffer.Length} bytes at sector {firstSector}",
                $"the device transfers whole blocks of {block} bytes", "start at a block and take whole blocks");
        }

        ulong count = (ulong)buffer.Length / SectorRange.SectorBytes;
        if (count > Info.Sectors || firstSector > Info.Sectors - count)
        {
            throw new VirtioException(_transport.Address, $"{what} of {count} sectors at sector {firstSector}",
                $"the device ends after sector {Info.Sectors - 1} ({Info.Sectors} sectors of {SectorRange.SectorBytes} bytes)",
                "ask for a range on the device");
        }

        return buffer.Length <= MaxRequestBytes
            ? SectorRange.Of(firstSector, buffer)
            : throw new VirtioException(_transport.Address, $"{what} of {buffer.Length} bytes at sector {firstSector}",
                $"one request of this device has at most {MaxRequestBytes} bytes", "use smaller buffers");
    }

    private bool TryStart(BlockOperation operation, SectorRange? sectors, PinnedBuffer buffer, long token)
    {
        ThrowIfStopped();
        if (_queue.Outstanding >= _options.Depth)
        {
            return false;
        }

        BlockRequest request = _requests.Get();
        request.Prepare(operation, sectors, buffer, token);
        if (!_queue.TryAdd(_chain.AsSpan(0, Describe(request)), out ushort id))
        {
            _requests.Return(request);
            return false;
        }

        _inFlight[id] = request;
        return true;
    }

    private int Describe(BlockRequest request)
    {
        int count = 0;
        _chain[count++] = new DmaSegment(request.Header, DeviceAccess.Read);
        DeviceAccess access = request.Operation == BlockOperation.Read ? DeviceAccess.Write : DeviceAccess.Read;
        for (int offset = 0; offset < request.Buffer.Length;)
        {
            int length = Math.Min(PieceBytes, request.Buffer.Length - offset);
            _chain[count++] = new DmaSegment(request.Buffer.Slice(offset, length), access);
            offset += length;
        }

        _chain[count++] = new DmaSegment(request.Status, DeviceAccess.Write);
        return count;
    }

    private int Pieces(int bytes) => (int)(((long)bytes + PieceBytes - 1) / PieceBytes);

    private BlockCompletion Finish(Completion completion)
    {
        BlockRequest request = _inFlight[completion.Id]!;
        _inFlight[completion.Id] = null;
        byte status = request.TakeStatus();
        var ended = new BlockCompletion(
            request.Operation, request.Sectors, request.Buffer, request.Token, (BlockStatus)status);
        ulong expected = request.ExpectedBytes;
        if (_options.DeviceWrote is { } wrote)
        {
            // What a failed request wrote is not known, so all that it could have written counts.
            if (request.Operation == BlockOperation.Read)
            {
                wrote(IovaRange.Of(request.Buffer.Iova, (ulong)request.Buffer.Length));
            }

            wrote(IovaRange.Of(request.Status.Iova, 1));
        }

        _requests.Return(request);
        if (status > virtio_blk.VIRTIO_BLK_S_UNSUPP)
        {
            throw Stop($"it ended a request with status {status}", "the device does not keep to the specification");
        }

        // virtio 1.3, 2.7.8.2: what lies beyond the length that the device gives was not written.
        return status != virtio_blk.VIRTIO_BLK_S_OK || completion.Written >= expected ? ended
            : throw Stop($"it ended a {request.Operation} as done but wrote {completion.Written} of {expected} bytes",
                "the device does not keep to the specification");
    }

    private void Sleep(EventFd vector)
    {
        // Taken first: a signal from now on belongs to a completion that the re-check or the wait sees.
        _ = vector.Take();
        if (!_queue.EnableNotifications())
        {
            // Wakes now and then for cancellation, the time-out and a device that gave up.
            _ = vector.Wait(TimeSpan.FromMilliseconds(100));
        }

        _queue.DisableNotifications();
    }

    private void RunOne(Func<bool> start)
    {
        ThrowIfStopped();
        if (InFlight != 0)
        {
            throw new InvalidOperationException("other requests are in flight; poll for them first");
        }

        _ = start();
        Submit();
        Span<BlockCompletion> ended = new BlockCompletion[1];
        do
        {
            Wait();
        }
        while (Poll(ended) == 0);
        if (ended[0].Status != BlockStatus.Ok)
        {
            throw Failure(ended[0]);
        }
    }

    // A device that answers nonsense may still write anywhere: it is reset before anybody hears of it.
    private VirtioException Stop(string what, string cause, string? cure = null)
    {
        Dispose();
        return new VirtioException(_transport.Address, what, cause, cure ?? "open the device again; if it stays, unbind it and bind it again");
    }

    private void ThrowIfStopped() => ObjectDisposedException.ThrowIf(_stopped, this);
}
