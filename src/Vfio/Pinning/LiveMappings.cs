using System.Runtime.CompilerServices;

namespace Vfio;

/// <summary>The live mappings of one container, ordered by host address, none overlapping another. Chunks of a fixed size keep inserting
/// and removing cheap at the 65535 entries that a container may have; emptied chunks are kept, so that pinning and releasing page by
/// page allocates nothing.</summary>
/// <remarks>Not thread-safe; the pinner's lock covers it.</remarks>
internal sealed class LiveMappings
{
    private const int ChunkSize = 256;

    // The chunks in use, none of them empty but the first when it is the only one, then those that are kept for later.
    private Chunk[] _chunks = [new Chunk()];
    private int _used = 1;

    /// <summary>Entries.</summary>
    public int Count { get; private set; }

    /// <summary>Bytes mapped.</summary>
    public ulong Bytes { get; private set; }

    /// <summary>The entry at a place that was found; valid until the next insert or remove.</summary>
    public ref LiveMapping this[Place place] => ref _chunks[place.Chunk].Items[place.Index];

    /// <summary>The mapping that holds <paramref name="address"/>; where there is none, the place that one would come after.</summary>
    public bool TryFind(HostAddress address, out Place place)
    {
        place = LastAtOrBelow(address);
        return place.Index >= 0 && this[place].HostLast >= address;
    }

    /// <summary>Whether no mapping shares a byte with <paramref name="range"/>, and then the place that one of it would come after.</summary>
    public bool IsFree(HostRange range, out Place place)
    {
        // None overlaps another, so if any reaches into the range, the last one that starts before its end does.
        place = LastAtOrBelow(range.Last);
        return place.Index < 0 || this[place].HostLast < range.First;
    }

    /// <summary>Every mapping that shares a byte with <paramref name="range"/>, ascending.</summary>
    public IEnumerable<LiveMapping> Overlapping(HostRange range)
    {
        Place place = LastAtOrBelow(range.First);
        if (place.Index < 0 || this[place].HostLast < range.First)
        {
            place = Next(place);
        }

        while (place.Chunk < _used && this[place].Host <= range.Last)
        {
            yield return this[place];
            place = Next(place);
        }
    }

    /// <summary>Every mapping, ascending.</summary>
    public IEnumerable<LiveMapping> All()
    {
        for (int c = 0; c < _used; c++)
        {
            for (int i = 0; i < _chunks[c].Count; i++)
            {
                yield return _chunks[c].Items[i];
            }
        }
    }

    /// <summary>Adds a mapping that overlaps none.</summary>
    /// <param name="place">Where <see cref="TryFind"/> or <see cref="IsFree"/> said, with no change since.</param>
    /// <param name="mapping">The mapping.</param>
    public void InsertAfter(Place place, in LiveMapping mapping)
    {
        Chunk chunk = _chunks[place.Chunk];
        int index = place.Index + 1;
        if (chunk.Count == ChunkSize)
        {
            Split(ref place);
            chunk = _chunks[place.Chunk];
            index = place.Index + 1;
        }

        if (index < chunk.Count)
        {
            Array.Copy(chunk.Items, index, chunk.Items, index + 1, chunk.Count - index);
        }

        chunk.Items[index] = mapping;
        chunk.Count++;
        Count++;
        Bytes += mapping.Length;
    }

    /// <summary>Removes the entry at a place that was found.</summary>
    public void Remove(Place place)
    {
        Chunk chunk = _chunks[place.Chunk];
        Bytes -= chunk.Items[place.Index].Length;
        Count--;
        chunk.Count--;
        Array.Copy(chunk.Items, place.Index + 1, chunk.Items, place.Index, chunk.Count - place.Index);
        if (chunk.Count == 0 && _used > 1)
        {
            _used--;
            Array.Copy(_chunks, place.Chunk + 1, _chunks, place.Chunk, _used - place.Chunk);
            _chunks[_used] = chunk;
        }
    }

    // Makes two of a full chunk, and moves the place along. Nothing has changed yet when there is no memory for another.
    private void Split(ref Place place)
    {
        if (_used == _chunks.Length)
        {
            _chunks = [.. _chunks, new Chunk()];
        }

        Chunk lower = _chunks[place.Chunk];
        Chunk upper = _chunks[_used];
        // Pinning page by page goes upwards: splitting at the end leaves full chunks behind, splitting in the middle half-full ones.
        int keep = place.Index + 1 == ChunkSize ? ChunkSize : ChunkSize / 2;
        Array.Copy(lower.Items, keep, upper.Items, 0, ChunkSize - keep);
        upper.Count = ChunkSize - keep;
        lower.Count = keep;
        int at = place.Chunk + 1;
        Array.Copy(_chunks, at, _chunks, at + 1, _used - at);
        _chunks[at] = upper;
        _used++;
        if (place.Index + 1 >= keep)
        {
            place = new Place(at, place.Index - keep);
        }
    }

    // The place of the last mapping that starts at or below the address; index -1 of the first chunk when there is none.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private Place LastAtOrBelow(HostAddress address)
    {
        // Pinning mostly goes upwards, past everything.
        int last = _used - 1;
        Chunk top = _chunks[last];
        int index = top.Count - 1;
        return index < 0 || top.Items[index].Host <= address ? new Place(last, index) : Search(address);
    }

    private Place Search(HostAddress address)
    {
        var start = new StartAt(address);
        int chunk = new ReadOnlySpan<Chunk>(_chunks, 0, _used).LastAtOrBelow(start);
        return chunk < 0
            ? new Place(0, -1)
            : new Place(chunk, new ReadOnlySpan<LiveMapping>(_chunks[chunk].Items, 0, _chunks[chunk].Count).LastAtOrBelow(start));
    }

    private Place Next(Place place) =>
        place.Index + 1 < _chunks[place.Chunk].Count ? new Place(place.Chunk, place.Index + 1) : new Place(place.Chunk + 1, 0);

    /// <summary>Where an entry is.</summary>
    internal readonly record struct Place(int Chunk, int Index);

    // Of a chunk its first entry's start: none that is searched is empty.
    private readonly struct StartAt(HostAddress address) : IComparable<Chunk>, IComparable<LiveMapping>
    {
        public int CompareTo(Chunk? other) => address.CompareTo(other!.Items[0].Host);

        public int CompareTo(LiveMapping other) => address.CompareTo(other.Host);
    }

    private sealed class Chunk
    {
        public readonly LiveMapping[] Items = new LiveMapping[ChunkSize];
        public int Count;
    }
}
