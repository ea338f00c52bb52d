using System.Diagnostics;

namespace Vfio;

/// <summary>Lets one thread take something away (a mapping, a translation, a ring) that others read without a lock: publish its
/// absence, <see cref="Wait"/>, then destroy it. Readers pay one plain store a batch.</summary>
/// <remarks>
/// <para>Proof. A reader runs batches. It reads shared pointers only inside a batch, and between two batches it stores a new
/// epoch (Q). The one who revokes stores the new pointer (P), executes a process-wide barrier (B), samples each epoch (S), and waits
/// until the epoch differs from the sample or says parked. B makes every thread of the process execute a full barrier at
/// some point b of its own instruction stream. Take a reader and the batch that b falls into.</para>
/// <list type="number">
/// <item>Batches that begin after b read the new pointer: P is before B, and so visible at b.</item>
/// <item>The batch around b, and no later one, may hold the old pointer. It began with the store Q0, which b has flushed, so
/// S, after B, samples Q0 or a later epoch. If it samples Q0, the wait ends only at a later epoch, which the reader stores after the last
/// access of the batch (release). If it samples a later epoch, that batch is over already.</item>
/// <item>A parked reader has stored an odd epoch after its last batch. It leaves by storing an even one before it reads any
/// pointer. If that store is before b, S sees it and waits as in 2. If it is after b, 1 holds.</item>
/// </list>
/// <para>The store Q may sit in the store buffer while the reader loads pointers: that is the reordering a fence would
/// forbid, and the reason for B, which flushes it. B orders threads of this process only: never use it for what a
/// device, a guest or another process must see.</para>
/// <para>The unmap of a pool needs no wait of its own: what readers use of it is rented, and <see cref="PinnedPool"/> unmaps nothing that
/// is. Who returns a reader's buffers waits before that.</para>
/// </remarks>
public sealed class GracePeriod
{
    // Of the time between two looks, which are made all the time.
    private static readonly TimeSpan MostCounted = TimeSpan.FromMilliseconds(10);

    private readonly Lock _registration = new();
    private GracePeriodReader[] _readers = [];

    /// <summary>Makes the calling or a future thread a reader. It counts as parked until <see cref="GracePeriodReader.Unpark"/>.</summary>
    /// <param name="name">Names the reader when it stalls somebody.</param>
    /// <returns>The reader, for one thread at a time.</returns>
    public GracePeriodReader Register(string name)
    {
        var reader = new GracePeriodReader(name);
        lock (_registration)
        {
            // ORDER: release of a whole array; pairs with the acquire in Wait.
            Volatile.Write(ref _readers, [.. _readers, reader]);
        }

        // ORDER: the list before anything that the reader reads; pairs with the first fence in Wait.
        Interlocked.MemoryBarrier();

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
        // ORDER: the caller's publication before the list is read; pairs with the fence in Register: a reader that is not on the list
        // yet finds what was published.
        Interlocked.MemoryBarrier();
        GracePeriodReader[] readers = Volatile.Read(ref _readers);
        if (readers.Length == 0 || (readers.Length == 1 && readers[0].IsParkedHere))
        {
            // Nobody else could hold anything.
            return;
        }

        // ORDER: B of the proof: after the caller's publication, before the epochs are read; pairs with the plain
        // stores in GracePeriodReader.
        Interlocked.MemoryBarrierProcessWide();
        // ORDER: acquire; pairs with the release in Register.
        foreach (GracePeriodReader reader in Volatile.Read(ref _readers))
        {
            long sample = reader.Epoch;
            var spin = default(SpinWait);
            TimeSpan waited = TimeSpan.Zero;
            long looked = Stopwatch.GetTimestamp();
            while (!GracePeriodReader.Parked(sample) && reader.Epoch == sample)
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
