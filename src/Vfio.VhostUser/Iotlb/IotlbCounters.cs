namespace Vfio.VhostUser;

/// <summary>What a device's IOTLB did since it was made.</summary>
/// <param name="Entries">Ranges that it holds now, after merging.</param>
/// <param name="Pending">Misses now waiting for the front-end's answer.</param>
/// <param name="Hits">Lookups that found what they needed: one for each piece that a descriptor lies in.</param>
/// <param name="Misses">Lookups that found something missing. The same descriptor counts each time that it is tried.</param>
/// <param name="AccessFailures">Lookups of something that may not be used so.</param>
/// <param name="Updates">Updates taken from the front-end.</param>
/// <param name="Merged">Times that a range was joined with its neighbour.</param>
/// <param name="Evicted">Ranges thrown out to stay within the capacity.</param>
/// <param name="Invalidated">Ranges that the front-end's invalidations removed or cut. What a reset, a stopped device or a new memory table
/// ends does not count.</param>
/// <param name="TimedOut">Misses that the front-end did not answer in time; a queue that still needs the page asks again.</param>
/// <param name="Unasked">Misses that were not asked for, since so many others waited; the queue asks again.</param>
/// <param name="Unreported">Access failures that the front-end was not told of: it took so many others not in.</param>
public readonly record struct IotlbCounters(
    long Entries,
    long Pending,
    long Hits,
    long Misses,
    long AccessFailures,
    long Updates,
    long Merged,
    long Evicted,
    long Invalidated,
    long TimedOut,
    long Unasked,
    long Unreported);
