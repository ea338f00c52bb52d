using System.Diagnostics;

namespace Vfio;

/// <summary>Lets one thread take something away (a mapping, a translation, a ring) that others read without a lock: publish its
/// absence, <see cref="Wait"/>, then destroy it. Readers pay one plain load and one plain store a batch.</summary>
/// <remarks>
/// <para>Proof. A reader runs batches. It reads shared pointers only inside a batch, and between two batches it loads the epoch (L) and
/// stores it as the one that it has passed (Q). The one who revokes stores the new pointer (P), increments the epoch to E, and looks at each
/// reader (S) until it has passed E or a later one; a parked reader has passed all.</para>
/// <list type="number">
/// <item>Who has passed E holds nothing old. Its L read E or later. P is before the increment that L read from, or before one further on
/// (release), and the loads of the next batch are behind L (acquire): they find the new pointer. The accesses of the batch
/// before are ahead of Q (release), and S, which read Q or a later one, is ahead of the destruction (acquire).</item>
/// <item>A reader that has not passed E does so at the end of its batch, or parks. So the wait ends, and each reader stores what it is
/// asked for: nobody has to guess from a store of the reader's own which of its loads came before it. That is what a sample of
/// the reader's count would need a barrier in every thread of the process for, which interrupts each processor that runs one.</item>
/// <item>A parked reader stored so after its last batch (release). It leaves by storing an epoch before a full fence and all loads behind it;
/// the one who revokes has P before the increment, a full fence, and S behind it. So one of the two finds what the other stored: S finds
/// the reader not parked, and 1 and 2 hold, or each load of the reader finds the new pointer.</item>
/// </list>
/// <para>All of it orders threads of this process only: never use it for what a device, a guest or another process must
/// see.</para>
/// <para>The unmap of a pool needs no wait of its own: what readers use of it is rented, and <see cref="PinnedPool"/> unmaps nothing that
/// is. Who returns a reader's buffers waits before that.</para>
/// </remarks>
public sealed class GracePeriod
{
    // Of the time between two looks, which are made all the time.
    private static readonly TimeSpan MostCounted = TimeSpan.FromMilliseconds(10);

    private readonly Lock _registration = new();
    private GracePeriodReader[] _readers = [];
    private PaddedEpoch _epoch;

    // ORDER: acquire; see GracePeriodReader.Quiesce.
    internal long Epoch => Volatile.Read(ref _epoch.Value);

    /// <summary>Makes the calling or a future thread a reader. It counts as parked until <see cref="GracePeriodReader.Unpark"/>.</summary>
    /// <param name="name">Names the reader when it stalls somebody.</param>
    /// <returns>The reader, for one thread at a time.</returns>
    public GracePeriodReader Register(string name)
    {
        var reader = new GracePeriodReader(this, name);
        lock (_registration)
        {
            // ORDER: release of a whole array; pairs with the acquire in Wait. The fence in Unpark is behind it: a reader that Wait does not
            // find on the list finds what was published.
            Volatile.Write(ref _readers, [.. _readers, reader]);
        }

        return reader;
    }

    /// <summary>Forgets a reader; it must be parked and stay so.</summary>
    /// <param name="reader">The reader.</param>
    /// <exception cref="InvalidOperationException">It is not parked.</exception>
    public void Unregister(GracePeriodReader reader)
    {
        ArgumentNullException.ThrowIfNull(reader);
        if (!reader.IsParked)
        {
            throw new InvalidOperationException($"{reader.Name} still reads");
        }

        lock (_registration)
        {
            // ORDER: as in Register.
            Volatile.Write(ref _readers, [.. _readers.Where(r => r != reader)]);
        }
    }

    /// <summary>Returns once no reader can hold what was readable before the call. A reader's own thread calls it
    /// parked.</summary>
    /// <param name="timeout">How long each reader may stay in one batch. Time in which the caller itself did not run is not counted.</param>
    /// <exception cref="TimeoutException">A reader did not pass in time: nothing may be destroyed. The message names it.</exception>
    public void Wait(TimeSpan timeout)
    {
        // ORDER: a full fence: the caller's publication before the list and the readers are looked at; pairs with the one in
        // GracePeriodReader.Unpark. And a release of that publication; pairs with the acquire in GracePeriodReader.Quiesce.
        long epoch = Interlocked.Increment(ref _epoch.Value);
        // ORDER: acquire; pairs with the release in Register.
        foreach (GracePeriodReader reader in Volatile.Read(ref _readers))
        {
            var spin = default(SpinWait);
            TimeSpan waited = TimeSpan.Zero;
            long looked = Stopwatch.GetTimestamp();
            while (reader.Passed < epoch)
            {
                long now = Stopwatch.GetTimestamp();
                TimeSpan since = Stopwatch.GetElapsedTime(looked, now);
                // While this thread stood still, so may the reader have: a process that was stopped, a machine that was paused.
                waited += since < MostCounted ? since : MostCounted;
                looked = now;
                if (waited > timeout)
                {
                    throw new TimeoutException(
                        $"{reader.Name} has been in one batch for more than {timeout.TotalMilliseconds} ms; " +
                        "what it may still use is kept. Cause: the thread is blocked, or its processor is taken. " +
                        "Cure: give it a processor of its own");
                }

                // Yields at most: a sleep would add a timer tick to a wait of a few microseconds.
                spin.SpinOnce(sleep1Threshold: -1);
            }
        }
    }
}
