using System.Diagnostics;
using System.Security.Cryptography;
using Vfio.Linux;
using Vfio.Virtio;

namespace Vfio.Service;

/// <summary>Operations on virtio block devices.</summary>
public static class BlockOperations
{
    /// <summary>Says what a device is like.</summary>
    public static Operation<BlockQuery, BlockInfo> Info { get; } = new(
        "blk.info", static json => json.BlockQuery, static json => json.BlockInfo, ShowInfo);

    /// <summary>Reads from a device by DMA into a pool, and hands the data on.</summary>
    public static Operation<BlockTransferRequest, BlockTransferResult> Read { get; } = new(
        "blk.read", static json => json.BlockTransferRequest, static json => json.BlockTransferResult, RunRead);

    /// <summary>Writes data to a device by DMA out of a pool, and flushes it.</summary>
    public static Operation<BlockTransferRequest, BlockTransferResult> Write { get; } = new(
        "blk.write", static json => json.BlockTransferRequest, static json => json.BlockTransferResult, RunWrite);

    private static BlockInfo ShowInfo(Engine engine, BlockQuery query, OperationContext context)
    {
        using BlockSession session = BlockSession.Open(
            engine, new BlockTransferRequest(query.Device) { Pool = query.Pool, QueueDepth = 1 }, context);
        VirtioBlockInfo info = session.Disk.Info;
        session.EndedWell = true;
        return new BlockInfo(
            query.Device,
            checked((ulong)info.Bytes),
            info.Sectors,
            info.BlockSize,
            info.MaxSegmentBytes,
            info.MaxSegments,
            info.IsReadOnly,
            info.HasFlush,
            info.QueueSize,
            info.Features.ToString());
    }

    private static BlockTransferResult RunRead(Engine engine, BlockTransferRequest request, OperationContext context)
    {
        using DataChannel? channel = DataChannel.Of(context);
        using BlockSession session = BlockSession.Open(engine, request, context);
        using IncrementalHash? hash = request.Sha256 ? IncrementalHash.CreateHash(HashAlgorithmName.SHA256) : null;
        ulong length = request.Length ?? RestOf(session.Disk.Info, request);
        SectorRange? sectors = Sectors("read", session.Disk.Info, request, length);
        var meter = new ProgressMeter("reading", context.Progress);
        ulong done = 0;
        long start = Stopwatch.GetTimestamp();
        if (sectors is SectorRange range)
        {
            BlockTransfer.Read(
                session.Disk,
                range,
                session.Buffers,
                (_, data) =>
                {
                    hash?.AppendData(data.Span);
                    channel?.Write(data.Span);
                    done += (ulong)data.Length;
                    meter.Report(done, length);
                },
                context.Cancellation);
        }

        session.EndedWell = true;
        return Result(session, request, done, start, hash);
    }

    private static BlockTransferResult RunWrite(Engine engine, BlockTransferRequest request, OperationContext context)
    {
        using DataChannel channel = DataChannel.Of(context)
            ?? throw new LinuxException("blk write", Errno.EINVAL, $"{request.Device}", "no data came along", "name it with --in FILE");
        ulong length = request.Length
            ?? throw new LinuxException("blk write", Errno.EINVAL, $"{request.Device}", "the length of the data was not told", "tell it with --length");
        using BlockSession session = BlockSession.Open(engine, request, context);
        using IncrementalHash? hash = request.Sha256 ? IncrementalHash.CreateHash(HashAlgorithmName.SHA256) : null;
        SectorRange? sectors = Sectors("write", session.Disk.Info, request, length);
        var meter = new ProgressMeter("writing", context.Progress);
        ulong done = 0;
        long start = Stopwatch.GetTimestamp();
        if (sectors is SectorRange range)
        {
            BlockTransfer.Write(
                session.Disk,
                range,
                session.Buffers,
                (_, data) =>
                {
                    channel.Read(data.Span);
                    session.Wrote(data);
                    hash?.AppendData(data.Span);
                    done += (ulong)data.Length;
                    meter.Report(done, length);
                },
                context.Cancellation);
        }

        if (session.Disk.Info.HasFlush)
        {
            session.Disk.Flush();
        }

        session.EndedWell = true;
        return Result(session, request, done, start, hash);
    }

    private static ulong RestOf(VirtioBlockInfo info, BlockTransferRequest request)
    {
        ulong bytes = checked((ulong)info.Bytes);
        return bytes - Math.Min(bytes, request.Offset);
    }

    // The sectors of a range of bytes, which is whole blocks and on the device; null for no bytes.
    private static SectorRange? Sectors(string what, VirtioBlockInfo info, BlockTransferRequest request, ulong length)
    {
        ulong bytes = checked((ulong)info.Bytes);
        string detail = $"{request.Device}, {what} of {length} bytes at {request.Offset}";
        if (request.Offset > bytes || length > bytes - request.Offset)
        {
            throw new LinuxException($"blk {what}", Errno.EINVAL, detail, $"the device ends at {bytes} bytes", "keep to the device: vfiopin blk info tells its size");
        }

        if (request.Offset % info.BlockSize != 0 || length % info.BlockSize != 0)
        {
            throw new LinuxException(
                $"blk {what}", Errno.EINVAL, detail, $"the device moves whole blocks of {info.BlockSize} bytes", $"use multiples of {info.BlockSize}");
        }

        return length == 0 ? null
            : new SectorRange(request.Offset / SectorRange.SectorBytes, ((request.Offset + length) / SectorRange.SectorBytes) - 1);
    }

    private static BlockTransferResult Result(BlockSession session, BlockTransferRequest request, ulong bytes, long start, IncrementalHash? hash) => new(
        request.Device,
        session.PoolName,
        request.Offset,
        bytes,
        Stopwatch.GetElapsedTime(start).TotalSeconds,
        hash is null ? null : Convert.ToHexStringLower(hash.GetHashAndReset()));
}
