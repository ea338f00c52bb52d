using System.Diagnostics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Vfio.VhostUser;

/// <summary>Where one queue found its translations of late, in a snapshot of the IOTLB: answers without a search.</summary>
/// <remarks>For one thread. Nothing here allocates, and nothing calls: it is asked in the rings' innermost loop.</remarks>
internal sealed class IotlbLastHits
{
    // By page: 64 KiB, which stay in the second-level cache. Ranges of a large page and more have tables of their own by large page, one
    // for what may be read and one for what may be written: those of the direction that a queue has stay in the first-level cache. Entries
    // displace each other where large pages are 512 MiB apart. All together stay below the 85000 bytes of a large object: rings start
    // anew often, and only the collections that stop every poller for longest free those.
    private const int SmallBits = 11;
    private const int LargeBits = 8;
    private const int LargeSizeBits = 5;
    private const ulong LargePage = 2 << 20;

    // Which kind of table the last search filled: the likelier one to have the next translation.
    private bool _smallFirst;
    // Large hits are of the present generation: a new one finds these tables empty. Small hits say which one they are of, as guests that
    // map each page by itself change their maps often.
    private bool _hasReadable;
    private bool _hasWritable;
    private long _generation = -1;
    private ulong _readKey;
    private ulong _writeKey;
    private LargeHits _readable;
    private LargeHits _writable;
    private SmallHits _small;

    /// <summary>Forgets what is of other generations.</summary>
    /// <param name="generation"><see cref="IotlbSnapshot.Generation"/> of what is found from here on.</param>
    public void Begin(long generation)
    {
        Debug.Assert(Unsafe.SizeOf<LargeHit>() == 1 << LargeSizeBits, "Large goes by the size of an entry");
        if (generation == _generation)
        {
            return;
        }

        _generation = generation;
        _readKey = KeyOf(DmaAccess.Read);
        _writeKey = KeyOf(DmaAccess.Write);
        if (_hasReadable)
        {
            _readable = default;
            _hasReadable = false;
        }

        if (_hasWritable)
        {
            _writable = default;
            _hasWritable = false;
        }
    }

    /// <summary>Translates a range that was found together with others.</summary>
    /// <param name="address">The first byte; <c>address + length - 1</c> does not wrap.</param>
    /// <param name="length">Bytes, at least 1.</param>
    /// <param name="access">What is to be done there. For both at once the answer is always false.</param>
    /// <param name="host">Where the first byte of all of them is, if the answer is true.</param>
    /// <returns>False says nothing about the range.</returns>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public bool TryTranslate(Iova address, uint length, DmaAccess access, out HostAddress host)
    {
        if (access is not (DmaAccess.Read or DmaAccess.Write))
        {
            host = default;
            return false;
        }

        return _smallFirst
            ? TrySmall(address, length, access, out host) || TryLarge(address, length, access, out host)
            : TryLarge(address, length, access, out host) || TrySmall(address, length, access, out host);
    }

    /// <summary>Notes what a search found.</summary>
    /// <param name="found">A range of the present generation.</param>
    /// <param name="address">What was looked for: inside of it.</param>
    public void Add(IotlbRange found, Iova address)
    {
        ulong span = found.Range.Last - found.Range.First;
        var window = new AddressWindow(found.Range.First.Value, Math.Min(span + 1, long.MaxValue), found.Host.Value);
        _smallFirst = span < LargePage - 1;
        if (_smallFirst)
        {
            Small(address) = new SmallHit(window, KeyOf(found.Access));
            return;
        }

        if ((found.Access & DmaAccess.Read) != 0)
        {
            Large(ref _readable, address) = new LargeHit(window);
            _hasReadable = true;
        }

        if ((found.Access & DmaAccess.Write) != 0)
        {
            Large(ref _writable, address) = new LargeHit(window);
            _hasWritable = true;
        }
    }

    private ulong KeyOf(DmaAccess access) => ((ulong)_generation << 2) | (ulong)access;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private bool TryLarge(Iova address, uint length, DmaAccess access, out HostAddress host)
    {
        ref LargeHit last = ref Large(ref access == DmaAccess.Write ? ref _writable : ref _readable, address);
        return last.Window.TryTranslate(address.Value, length, out host);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private bool TrySmall(Iova address, uint length, DmaAccess access, out HostAddress host)
    {
        ref SmallHit last = ref Small(address);
        // One check for both: the same generation, and the access among what is allowed.
        ulong key = access == DmaAccess.Write ? _writeKey : _readKey;
        return last.Window.TryTranslate(address.Value, length, out host) && ((last.Key ^ key) & (~3ul | (ulong)access)) == 0;
    }

    // Neighbouring pages have neighbouring entries, so that buffers that follow each other share cache lines here too. Where the entries
    // of so many pages start is hashed (Fibonacci hashing: Knuth, TAOCP 6.4), as buffers at one place of many large pages would meet.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private ref SmallHit Small(Iova address)
    {
        ulong page = address.Value / IotlbQuestion.PageSize;
        ulong start = unchecked((page >> SmallBits) * 0x9E37_79B9_7F4A_7C15) >> (64 - SmallBits);
        return ref _small[unchecked((int)(page + start)) & ((1 << SmallBits) - 1)];
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static ref LargeHit Large(ref LargeHits table, Iova address)
    {
        // The page's number times the size of an entry is one shift; the index would be two.
        // SAFETY: the mask leaves the start of one of the table's entries.
        const int Size = 1 << LargeSizeBits;
        ulong offset = address.Value / (LargePage / Size) & (((1 << LargeBits) - 1) * Size);
        return ref Unsafe.AddByteOffset(ref table[0], (nuint)offset);
    }

    [StructLayout(LayoutKind.Sequential)]
    private readonly struct LargeHit(AddressWindow window)
    {
        public readonly AddressWindow Window = window;
        // To a power of two.
        private readonly ulong _padding;
    }

    // Where something was found, and by which key: the generation, and the access that is allowed.
    private readonly struct SmallHit(AddressWindow window, ulong key)
    {
        public readonly AddressWindow Window = window;
        public readonly ulong Key = key;
    }

    [InlineArray(1 << LargeBits)]
    private struct LargeHits
    {
        private LargeHit _first;
    }

    [InlineArray(1 << SmallBits)]
    private struct SmallHits
    {
        private SmallHit _first;
    }
}
