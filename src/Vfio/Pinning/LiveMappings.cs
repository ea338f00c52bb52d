namespace Vfio;

/// <summary>The live mappings of one container, ordered by host address, none overlapping another. Chunks of a fixed size keep inserting
/// and removing cheap at the 65535 entries that a container may have; emptied chunks are kept, so that pinning and releasing page by
/// page allocates nothing.</summary>
/// <remarks>Not thread-safe; the pinner's lock covers it.</remarks>
internal sealed class LiveMappings
{
    private const int ChunkSize = 256;
    private readonly List<Chunk> _chunks = [];
    private readonly Stack<Chunk> _spare = new();

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

        while (place.Chunk < _chunks.Count && this[place].Host <= range.Last)
        {
            yield return this[place];
            place = Next(place);
        }
    }

    /// <summary>Every mapping, ascending.</summary>
    public IEnumerable<LiveMapping> All()
    {
        foreach (Chunk chunk in _chunks)
        {
            for (int i = 0; i < chunk.Count; i++)
            {
                yield return chunk.Items[i];
            }
        }
    }

    /// <summary>Makes sure that the next <see cref="InsertAfter"/>, and removing it again, allocates nothing: what the kernel has mapped
    /// must not be lost because there is no memory to note it down.</summary>
    public void Reserve()
    {
        if (_spare.Count == 0)
        {
            _spare.Push(new Chunk());
        }

        _chunks.EnsureCapacity(_chunks.Count + 1);
        _spare.EnsureCapacity(_spare.Count + _chunks.Count + 1);
    }

    /// <summary>Adds a mapping that overlaps none.</summary>
    /// <param name="place">Where <see cref="TryFind"/> or <see cref="IsFree"/> said, with no change since.</param>
    /// <param name="mapping">The mapping.</param>
    public void InsertAfter(Place place, in LiveMapping mapping)
    {
        if (_chunks.Count == 0)
        {
            _chunks.Add(Fresh());
        }

        Chunk chunk = _chunks[place.Chunk];
        int index = place.Index + 1;
        if (chunk.Count == ChunkSize)
        {
            Chunk upper = Fresh();
            // Pinning page by page goes upwards: splitting at the end leaves full chunks behind, splitting in the middle half-full ones.
            int keep = index == ChunkSize ? ChunkSize : ChunkSize / 2;
            Array.Copy(chunk.Items, keep, upper.Items, 0, ChunkSize - keep);
            upper.Count = ChunkSize - keep;
            chunk.Count = keep;
            _chunks.Insert(place.Chunk + 1, upper);
            if (index >= keep)
            {
                chunk = upper;
                index -= keep;
            }
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
        if (chunk.Count == 0)
        {
            _chunks.RemoveAt(place.Chunk);
            _spare.Push(chunk);
        }
    }

    private Chunk Fresh() => _spare.TryPop(out Chunk? chunk) ? chunk : new Chunk();

    // The place of the last mapping that starts at or below the address; index -1 of the first chunk when there is none.
    private Place LastAtOrBelow(HostAddress address)
    {
        int low = 0;
        int high = _chunks.Count - 1;
        // Pinning mostly goes upwards, past everything.
        if (high >= 0 && _chunks[high] is var top && top.Items[top.Count - 1].Host <= address)
        {
            return new Place(high, top.Count - 1);
        }

        while (low <= high)
        {
            int middle = (low + high) >>> 1;
            if (_chunks[middle].Items[0].Host <= address)
            {
                low = middle + 1;
            }
            else
            {
                high = middle - 1;
            }
        }

        if (high < 0)
        {
            return new Place(0, -1);
        }

        Chunk chunk = _chunks[high];
        int chunkIndex = high;
        low = 0;
        high = chunk.Count - 1;
        while (low <= high)
        {
            int middle = (low + high) >>> 1;
            if (chunk.Items[middle].Host <= address)
            {
                low = middle + 1;
            }
            else
            {
                high = middle - 1;
            }
        }

        return new Place(chunkIndex, high);
    }

    private Place Next(Place place) =>
        place.Chunk < _chunks.Count && place.Index + 1 < _chunks[place.Chunk].Count
            ? new Place(place.Chunk, place.Index + 1)
            : new Place(place.Chunk + 1, 0);

    /// <summary>Where an entry is.</summary>
    internal readonly record struct Place(int Chunk, int Index);

    private sealed class Chunk
    {
        public readonly LiveMapping[] Items = new LiveMapping[ChunkSize];
        public int Count;
    }
}
