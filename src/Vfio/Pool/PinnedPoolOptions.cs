namespace Vfio;

/// <summary>What a pool shall be like.</summary>
public sealed record PinnedPoolOptions
{
    /// <summary>The pool's name; its memory shows as <c>/memfd:vfiopin-NAME</c> in <c>/proc/PID/maps</c>.</summary>
    public required string Name { get; init; }

    /// <summary>Bytes, a multiple of the page size.</summary>
    public required ulong Size { get; init; }

    /// <summary>The pages to make it of. The first that can be had is taken, so a list of one never falls back.</summary>
    public IReadOnlyList<MemoryBacking> Backings { get; init; } = [MemoryBacking.Huge2MiB];

    /// <summary>Bytes of a rented buffer: a power of two from 64 bytes to 1 GiB.</summary>
    public int BufferSize { get; init; } = 4096;

    /// <summary>The NUMA node that the pages shall come from where it has any left, or null for no wish.</summary>
    public int? Node { get; init; }

    /// <summary>Bytes that shall be possible to free alone when the pool shrinks: no map is larger. 0 for one map a segment.</summary>
    public ulong Grain { get; init; }

    /// <summary>Threads that populate the memory; 0 for one per processor.</summary>
    public int PopulateThreads { get; init; }

    /// <summary>Told how far populating is; called from the populating threads.</summary>
    public IProgress<PopulateProgress>? Progress { get; init; }

    /// <summary>Whether the pool keeps a record of the pages that are written (<see cref="PinnedPool.Dirty"/>): 4 bytes and a bit a page.</summary>
    public bool TrackDirty { get; init; } = true;

    /// <summary>Whether rented buffers are watched: double return, use after return and foreign buffers are found, and who rented is
    /// named. It costs a stack trace a rent, so it is on in Debug builds only.</summary>
    public bool Checked { get; init; } = CheckedByDefault;

    private static bool CheckedByDefault =>
#if DEBUG
        true;
#else
        false;
#endif
}
