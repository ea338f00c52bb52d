using Vfio.Virtio;

namespace Vfio.VhostUser;

/// <summary>What happened on one ring. Written by the thread that polls it; read by any, each number by itself.</summary>
public sealed class NetQueueCounters
{
    private readonly long[] _broken = new long[Enum.GetValues<RingError>().Length];

    /// <summary>Frames moved.</summary>
    public long Frames { get; internal set; }

    /// <summary>Their bytes.</summary>
    public long Bytes { get; internal set; }

    /// <summary>Batches that moved at least one.</summary>
    public long Bursts { get; internal set; }

    /// <summary>Calls made to the driver.</summary>
    public long Calls { get; internal set; }

    /// <summary>Times that the driver's kick woke the poller.</summary>
    public long Kicks { get; set; }

    /// <summary>Frames discarded because the ring is not enabled, or because the port only sends.</summary>
    public long DroppedDisabled { get; internal set; }

    /// <summary>Frames shorter than an Ethernet header, or longer than any frame.</summary>
    public long DroppedLength { get; internal set; }

    /// <summary>Frames whose header asks for what cannot be done to them.</summary>
    public long DroppedHeader { get; internal set; }

    /// <summary>Frames larger than the driver's buffer, without merged buffers.</summary>
    public long DroppedTooLarge { get; internal set; }

    /// <summary>Frames larger than the MTU that the driver was told.</summary>
    public long DroppedMtu { get; internal set; }

    /// <summary>Frames to be cut into segments, for a driver that does not take such.</summary>
    public long DroppedOffload { get; internal set; }

    /// <summary>Frames that found no buffer in time, or no ring at all.</summary>
    public long DroppedNoBuffer { get; set; }

    /// <summary>Frames dropped, for whatever cause.</summary>
    public long Dropped =>
        DroppedDisabled + DroppedLength + DroppedHeader + DroppedTooLarge + DroppedMtu + DroppedOffload + DroppedNoBuffer;

    /// <summary>Times that the driver broke the ring, for whatever cause. It is dead from then on, until it is set up anew.</summary>
    public long Broken => _broken.Sum();

    /// <summary>Times that the driver broke the ring in one way.</summary>
    /// <param name="cause">The way.</param>
    /// <returns>How often.</returns>
    public long BrokenBy(RingError cause) => _broken[(int)cause];

    /// <summary>Adds another ring's, or an earlier life's of the same.</summary>
    /// <param name="other">What to add.</param>
    public void Add(NetQueueCounters other)
    {
        ArgumentNullException.ThrowIfNull(other);
        Frames += other.Frames;
        Bytes += other.Bytes;
        Bursts += other.Bursts;
        Calls += other.Calls;
        Kicks += other.Kicks;
        DroppedDisabled += other.DroppedDisabled;
        DroppedLength += other.DroppedLength;
        DroppedHeader += other.DroppedHeader;
        DroppedTooLarge += other.DroppedTooLarge;
        DroppedMtu += other.DroppedMtu;
        DroppedOffload += other.DroppedOffload;
        DroppedNoBuffer += other.DroppedNoBuffer;
        for (int cause = 0; cause < _broken.Length; cause++)
        {
            _broken[cause] += other._broken[cause];
        }
    }

    /// <summary>Counts a ring that broke.</summary>
    internal void Break(RingError cause) => _broken[(int)cause]++;
}
