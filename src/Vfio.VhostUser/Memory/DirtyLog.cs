using Vfio.Linux;

namespace Vfio.VhostUser;

/// <summary>The log of guest pages that were written, shared with the front-end for migration: a bit per 4 KiB page, by guest
/// physical address (vhost-user specification, "Migration").</summary>
/// <remarks>Thread-safe. The front-end clears bits at any time, so nothing about them may be remembered between two batches.</remarks>
public sealed unsafe class DirtyLog : IDisposable
{
    /// <summary>VHOST_LOG_PAGE.</summary>
    public const int PageSize = 4096;

    private readonly GuardedMapping _mapping;
    private readonly ulong* _words;
    private readonly ulong _pages;
    private long _outside;

    private DirtyLog(GuardedMapping mapping, ulong size)
    {
        _mapping = mapping;
        _words = (ulong*)mapping.Address;
        _pages = size * 8;
    }

    /// <summary>Writes that lay beyond the log and could not be recorded: the front-end made it too small.</summary>
    public long Outside => Interlocked.Read(ref _outside);

    /// <summary>Maps the log that a front-end sent.</summary>
    /// <param name="file">The memory file; stays the caller's.</param>
    /// <param name="offset">Where the bit of guest physical page 0 is. Multiple of 8.</param>
    /// <param name="size">Bytes of the log; the last incomplete 8 are not used.</param>
    /// <param name="owner">Whose memory it is; null: nobody's.</param>
    /// <returns>The log.</returns>
    /// <exception cref="VhostUserProtocolException">The file does not hold it.</exception>
    /// <exception cref="LinuxException">The kernel would not map it.</exception>
    public static DirtyLog Map(FileDescriptor file, FileOffset offset, ulong size, PeerMappings? owner = null)
    {
        SharedFile backing = SharedFile.Of(file);
        if (!backing.IsMemory || offset.Value % sizeof(ulong) != 0 || size < sizeof(ulong)
            || unchecked(offset.Value + size) < size || offset.Value + size > backing.Size)
        {
            throw new VhostUserProtocolException(
                $"dirty log of {size} bytes at offset {offset}: not aligned to 8, or the file ({backing.Size} bytes) does not hold it");
        }

        return new DirtyLog(GuardedMapping.Map(file, new FileRange(offset.Value, size), backing.PageSize, owner), size & ~7ul);
    }

    /// <summary>Marks the pages of a range that was written.</summary>
    /// <param name="address">Its first byte.</param>
    /// <param name="length">Bytes; none is allowed.</param>
    /// <returns>Whether any was not marked already.</returns>
    public bool Mark(GuestPhysicalAddress address, ulong length)
    {
        if (length == 0)
        {
            return false;
        }

        ulong first = address.Value / PageSize;
        ulong last = unchecked(address.Value + (length - 1)) / PageSize;
        if (last >= _pages || last < first)
        {
            Interlocked.Increment(ref _outside);
            if (first >= _pages)
            {
                return false;
            }

            last = _pages - 1;
        }

        bool any = false;
        for (ulong word = first / 64; word <= last / 64; word++)
        {
            ulong mask = ulong.MaxValue;
            if (word == first / 64)
            {
                mask &= ulong.MaxValue << (int)(first % 64);
            }

            if (word == last / 64)
            {
                mask &= ulong.MaxValue >> (int)(63 - (last % 64));
            }

            any |= Set(word, mask);
        }

        return any;
    }

    /// <inheritdoc/>
    public void Dispose() => _mapping.Dispose();

    // SAFETY: word is below _pages / 64, which the mapping holds. The front-end exchanges words with 0 while it harvests.
    internal bool Set(ulong word, ulong mask)
    {
        // ORDER: the guest's memory was written before the bits are looked at: a bit that is still set here is harvested after the
        // write, or was cleared before this read. The plain read may pass the earlier stores, hence the fence; pairs with the
        // front-end's atomic exchange, after which it reads the memory.
        Interlocked.MemoryBarrier();
        // The guest chose it, by the address that it had written; the fence holds no speculation back.
        word = Speculation.Clamp(word, (_pages / 64) - 1);
        return (Volatile.Read(ref _words[word]) & mask) != mask && (Interlocked.Or(ref _words[word], mask) & mask) != mask;
    }
}
