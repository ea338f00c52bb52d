namespace Vfio.Virtio;

/// <summary>Moves a whole range of a block device through a set of buffers, as many requests in flight as the device was opened
/// for, in order for the caller: the next buffer is on its way while this one is worked on.</summary>
/// <remarks>Not thread-safe; uses the device alone while it runs.</remarks>
public static class BlockTransfer
{
    /// <summary>Works on data in the order of the device.</summary>
    /// <param name="sectors">Which sectors these are.</param>
    /// <param name="data">Their data (reading) or where to put it (writing). The caller's until it returns.</param>
    public delegate void Work(SectorRange sectors, PinnedBuffer data);

    /// <summary>Reads a range and hands it over in order.</summary>
    /// <param name="disk">The device, with nothing in flight.</param>
    /// <param name="sectors">What to read, whole blocks.</param>
    /// <param name="buffers">Memory to read into, each a whole number of blocks. More of them than one keep the device busy.</param>
    /// <param name="consume">Called with each piece, in order, on this thread.</param>
    /// <param name="cancellation">Ends the transfer early.</param>
    /// <exception cref="VirtioException">The range is not on the device, or the device failed.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    /// <remarks>Whichever way it ends, no request is in flight when it returns: the buffers are the caller's.</remarks>
    public static void Read(
        VirtioBlockDevice disk,
        SectorRange sectors,
        IReadOnlyList<PinnedBuffer> buffers,
        Work consume,
        CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(consume);
        Run(disk, sectors, buffers, prepare: null, consume, cancellation);
    }

    /// <summary>Fills buffers in order and writes them to a range.</summary>
    /// <param name="disk">The device, with nothing in flight.</param>
    /// <param name="sectors">Where to write, whole blocks.</param>
    /// <param name="buffers">Memory to write from, each a whole number of blocks. More of them than one keep the device busy.</param>
    /// <param name="produce">Called for each piece, in order, on this thread; fills all of it.</param>
    /// <param name="cancellation">Ends the transfer early.</param>
    /// <exception cref="VirtioException">The device is read-only, the range not on it, or the device failed.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled; some of the range was written.</exception>
    /// <remarks>Whichever way it ends, no request is in flight when it returns: the buffers are the caller's. Nothing is flushed.</remarks>
    public static void Write(
        VirtioBlockDevice disk,
        SectorRange sectors,
        IReadOnlyList<PinnedBuffer> buffers,
        Work produce,
        CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(produce);
        Run(disk, sectors, buffers, produce, consume: null, cancellation);
    }

    private static void Run(
        VirtioBlockDevice disk,
        SectorRange sectors,
        IReadOnlyList<PinnedBuffer> buffers,
        Work? prepare,
        Work? consume,
        CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(disk);
        ArgumentNullException.ThrowIfNull(buffers);
        ArgumentOutOfRangeException.ThrowIfZero(buffers.Count, nameof(buffers));
        if (disk.InFlight != 0)
        {
            throw new InvalidOperationException("other requests are in flight; poll for them first");
        }

        var pending = new Queue<Piece>();
        try
        {
            ulong? next = sectors.First;
            int buffer = 0;
            Span<BlockCompletion> ended = new BlockCompletion[32];
            while (next is not null || pending.Count != 0)
            {
                cancellation.ThrowIfCancellationRequested();
                while (next is { } first && pending.Count < buffers.Count)
                {
                    Piece piece = Cut(disk, sectors, first, buffers[buffer]);
                    if (!TryStart(disk, piece, prepare))
                    {
                        break;
                    }

                    pending.Enqueue(piece);
                    buffer = (buffer + 1) % buffers.Count;
                    next = piece.Sectors.Last == sectors.Last ? null : piece.Sectors.Last + 1;
                }

                disk.Submit();
                Deliver(pending, consume);
                if (pending.TryPeek(out Piece? oldest) && !oldest.IsDone)
                {
                    disk.Wait(cancellation);
                    int count = disk.Poll(ended);
                    Settle(disk, pending, ended[..count]);
                }
            }
        }
        catch
        {
            disk.Drain();
            throw;
        }
    }

    private static Piece Cut(VirtioBlockDevice disk, SectorRange sectors, ulong first, PinnedBuffer buffer)
    {
        int longest = Math.Min(buffer.Length, disk.MaxRequestBytes);
        ulong count = Math.Min((ulong)(longest / SectorRange.SectorBytes), sectors.Last - first + 1);
        return new Piece(new SectorRange(first, first + Math.Max(count, 1) - 1), buffer.Slice(0, (int)count * SectorRange.SectorBytes));
    }

    private static bool TryStart(VirtioBlockDevice disk, Piece piece, Work? prepare)
    {
        if (prepare is null)
        {
            return disk.TryRead(piece.Sectors.First, piece.Data, (long)piece.Sectors.First);
        }

        if (!disk.HasRoomFor(piece.Data))
        {
            return false;
        }

        prepare(piece.Sectors, piece.Data);
        return disk.TryWrite(piece.Sectors.First, piece.Data, (long)piece.Sectors.First);
    }

    private static void Settle(VirtioBlockDevice disk, Queue<Piece> pending, ReadOnlySpan<BlockCompletion> ended)
    {
        foreach (ref readonly BlockCompletion completion in ended)
        {
            if (completion.Status != BlockStatus.Ok)
            {
                throw disk.Failure(completion);
            }

            foreach (Piece piece in pending)
            {
                if (piece.Sectors.First == (ulong)completion.Token)
                {
                    piece.IsDone = true;
                    break;
                }
            }
        }
    }

    private static void Deliver(Queue<Piece> pending, Work? consume)
    {
        while (pending.TryPeek(out Piece? oldest) && oldest.IsDone)
        {
            consume?.Invoke(oldest.Sectors, oldest.Data);
            _ = pending.Dequeue();
        }
    }

    private sealed class Piece(SectorRange sectors, PinnedBuffer data)
    {
        public SectorRange Sectors { get; } = sectors;

        public PinnedBuffer Data { get; } = data;

        public bool IsDone { get; set; }
    }
}
