using System.Diagnostics;

namespace Vfio;

/// <summary>Lets one thread take something away (a mapping, a translation, a ring) that others read without a lock: publish its
/// absence, <see cref="Wait"/>, then destroy it. Readers pay one plain load and one plain store a batch.</summary>
/// <remarks>
/// <para>Proof. A reader runs batches. It reads shared pointers only inside a batch, and between two batches it loads the epoch (L) and
/// stores it as the one that it has passed (Q). The one who revokes stores the new pointer (P), increments the epoch to E, and looks at each
/// reader (S) until it has passed E or a later one; a parked reader has passed all.</para>
/// <list type="number">
/// <item>Who has passed E, at the end of a batch or as it left a park, holds nothing old. P is before the increment to E. L read the epoch
/// from that increment or from a later one, each of which is a full fence and has read the one before: so P is before L (release,
/// acquire), and the loads of the next batch are behind L: they find the new pointer. The accesses of the batch before are ahead of Q or of
/// the park (release), and S, which read Q or what the reader stored later, is ahead of the destruction (acquire).</item>
/// <item>A reader that has not passed E does so at the end of its batch, or parks: so the wait ends. Each stores what it is asked for, and nobody
/// has to guess from a count of its own which of its loads came before it. For that guess each thread of the process
/// would have to be fenced, which interrupts every processor that runs one.</item>
/// <item>A reader that S finds parked stored so after its last batch (release). It leaves by storing an epoch, then a full fence, then its
/// loads; the one who revokes has P, then the increment, a full fence, then S. S did not find what the reader stored when it left: so its loads
/// find P. A reader that is not on the list yet is like a parked one: the list is ahead of the fence by which it leaves.</item>
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

    // A batch takes less, mostly, and the processor is kept until then: who gets it meanwhile may not give it back so soon.
    private static readonly TimeSpan Spinning = TimeSpan.FromMicroseconds(20);

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
            TimeSpan waited = TimeSpan.Zero;
            long looked = 0;
            while (reader.Passed < epoch)
            {
                long now = Stopwatch.GetTimestamp();
                TimeSpan since = looked == 0 ? TimeSpan.Zero : Stopwatch.GetElapsedTime(looked, now);
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

                if (waited < Spinning)
                {
                    Thread.SpinWait(1);
                }
                else
                {
                    // No more than that: a sleep would add a timer tick.
                    Thread.Yield();
                }
            }
        }
    }
}
