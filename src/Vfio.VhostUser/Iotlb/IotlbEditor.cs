namespace Vfio.VhostUser;

/// <summary>Makes the next snapshot out of the present one: a range is taken out, and perhaps another translation put in its
/// place. Only the chunks that the change touches are made anew. For one thread at a time.</summary>
internal sealed class IotlbEditor
{
    // The two chunks at the ends of a change, a neighbour that a small one is joined with, and what a change adds.
    private readonly IotlbRange[] _ranges = new IotlbRange[(3 * IotlbChunk.MaxRanges) + 4];
    private readonly byte[] _referenced = new byte[(3 * IotlbChunk.MaxRanges) + 4];
    private int _count;

    /// <summary>Ranges that the last change removed or cut.</summary>
    public int Displaced { get; private set; }

    /// <summary>Ranges that the last change joined with a neighbour.</summary>
    public int Merged { get; private set; }

    /// <summary>Takes a range out and puts another in.</summary>
    /// <param name="old">The present snapshot.</param>
    /// <param name="range">What is taken out.</param>
    /// <param name="insert">What is put there: nothing, or a translation of exactly <paramref name="range"/>.</param>
    /// <returns>The next snapshot; <paramref name="old"/> itself where nothing changes.</returns>
    public IotlbSnapshot Replace(IotlbSnapshot old, IovaRange range, IotlbRange? insert)
    {
        Displaced = 0;
        Merged = 0;
        _count = 0;
        ReadOnlySpan<IotlbChunk> chunks = old.Chunks;
        // One byte further on each side, for the neighbours that the new range may merge with.
        var before = new Iova(range.First.Value == 0 ? 0 : range.First.Value - 1);
        var after = new Iova(range.Last.Value == ulong.MaxValue ? ulong.MaxValue : range.Last.Value + 1);
        int first = Math.Min(old.ChunkOf(before), Math.Max(chunks.Length - 1, 0));
        int end = Math.Min(old.ChunkOf(after) + 1, chunks.Length);
        if (end - 1 > first && chunks[end - 1].Ranges[0].Range.First > after)
        {
            end--;
        }

        bool changed = false;
        bool inserted = insert is null;
        for (int c = first; c < end; c++)
        {
            // Chunks between the two ends lie wholly inside the range.
            if (c != first && c != end - 1)
            {
                Displaced += chunks[c].Ranges.Length;
                changed = true;
                continue;
            }

            for (int i = 0; i < chunks[c].Ranges.Length; i++)
            {
                IotlbRange current = chunks[c].Ranges[i];
                byte referenced = chunks[c].Referenced[i];
                if (current.Range.Last < range.First)
                {
                    Append(current, referenced);
                    continue;
                }

                if (current.Range.First > range.Last)
                {
                    if (!inserted)
                    {
                        Append(insert!.Value, 0);
                        inserted = true;
                    }

                    Append(current, referenced);
                    continue;
                }

                if (insert is { } same && Agree(current, same))
                {
                    if (current.Range.Contains(range))
                    {
                        return old;
                    }
                }
                else
                {
                    changed = true;
                    Displaced++;
                }

                if (current.Range.First < range.First)
                {
                    Append(current.Until(before), referenced);
                }

                if (!inserted && current.Range.Last > range.Last)
                {
                    Append(insert!.Value, 0);
                    inserted = true;
                }

                if (current.Range.Last > range.Last)
                {
                    Append(current.From(after), referenced);
                }
            }
        }

        if (!inserted)
        {
            Append(insert!.Value, 0);
        }
        else if (insert is null && !changed)
        {
            return old;
        }

        return Assemble(old, first, end, changed ? old.Generation + 1 : old.Generation);
    }

    // Whether two overlapping ranges say the same of every byte that they share.
    private static bool Agree(IotlbRange left, IotlbRange right) =>
        left.Access == right.Access
        && (left.Access == DmaAccess.None
            || unchecked(left.Host.Value - left.Range.First.Value) == unchecked(right.Host.Value - right.Range.First.Value));

    // What is put in counts as unused (0) until somebody looks it up: else a flood of new ranges would look as used as the old.
    private void Append(IotlbRange range, byte referenced)
    {
        if (_count != 0 && _ranges[_count - 1].Continues(range))
        {
            IotlbRange left = _ranges[_count - 1];
            _ranges[_count - 1] = left with { Range = new IovaRange(left.Range.First, range.Range.Last) };
            _referenced[_count - 1] |= referenced;
            Merged++;
            return;
        }

        _ranges[_count] = range;
        _referenced[_count] = referenced;
        _count++;
    }

    private IotlbSnapshot Assemble(IotlbSnapshot old, int first, int end, long generation)
    {
        ReadOnlySpan<IotlbChunk> chunks = old.Chunks;
        if (_count is > 0 and < IotlbChunk.MinRanges)
        {
            if (end < chunks.Length)
            {
                AppendChunk(chunks[end++]);
            }
            else if (first > 0)
            {
                PrependChunk(chunks[--first]);
            }
        }

        int made = (_count + IotlbChunk.MaxRanges - 1) / IotlbChunk.MaxRanges;
        var next = new IotlbChunk[chunks.Length - (end - first) + made];
        var lasts = new ulong[next.Length];
        chunks[..first].CopyTo(next);
        chunks[end..].CopyTo(next.AsSpan(first + made));
        for (int i = 0, from = 0; i < made; i++)
        {
            int to = (int)((long)_count * (i + 1) / made);
            var chunk = new IotlbChunk(_ranges.AsSpan(from, to - from).ToArray());
            _referenced.AsSpan(from, to - from).CopyTo(chunk.Referenced);
            next[first + i] = chunk;
            from = to;
        }

        int count = old.Count + _count;
        for (int c = first; c < end; c++)
        {
            count -= chunks[c].Ranges.Length;
        }

        for (int c = 0; c < next.Length; c++)
        {
            lasts[c] = next[c].Ranges[^1].Range.Last.Value;
        }

        return new IotlbSnapshot(next, lasts, count, generation);
    }

    private void AppendChunk(IotlbChunk chunk)
    {
        chunk.Ranges.CopyTo(_ranges, _count);
        chunk.Referenced.CopyTo(_referenced, _count);
        _count += chunk.Ranges.Length;
    }

    private void PrependChunk(IotlbChunk chunk)
    {
        int length = chunk.Ranges.Length;
        _ranges.AsSpan(0, _count).CopyTo(_ranges.AsSpan(length));
        _referenced.AsSpan(0, _count).CopyTo(_referenced.AsSpan(length));
        chunk.Ranges.CopyTo(_ranges, 0);
        chunk.Referenced.CopyTo(_referenced, 0);
        _count += length;
    }
}
