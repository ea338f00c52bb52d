using System.Diagnostics;

namespace Vfio;

/// <summary>One thread that reads shared pointers in batches.</summary>
public sealed class GracePeriodReader
{
    // Parked: past every epoch that there will be.
    private const long Never = long.MaxValue;

    private readonly GracePeriod _grace;
    private PaddedEpoch _passed = new() { Value = Never };

    internal GracePeriodReader(GracePeriod grace, string name)
    {
        _grace = grace;
        Name = name;
    }

    /// <summary>Names the thread in messages.</summary>
    public string Name { get; }

    /// <summary>Whether it is outside any batch, and holds nothing.</summary>
    public bool IsParked => Passed == Never;

    // ORDER: acquire: what the reader did before it passed is over; pairs with the release in Quiesce and Park.
    internal long Passed => Volatile.Read(ref _passed.Value);

    /// <summary>Ends a batch and begins the next: nothing read before may be used after. Not while parked, which is left by
    /// <see cref="Unpark"/>: only a debug build looks.</summary>
    public void Quiesce()
    {
        Debug.Assert(!IsParked, "a batch of a parked reader");
        // ORDER: acquire of the epoch: what was published before it is found by the next batch; pairs with the increment in
        // GracePeriod.Wait. Release after the batch's last access; pairs with Passed. No fence: see the proof at GracePeriod.
        Volatile.Write(ref _passed.Value, _grace.Epoch);
    }

    /// <summary>Ends the last batch: the thread is about to wait, or to end.</summary>
    /// <exception cref="InvalidOperationException">It is parked already.</exception>
    public void Park()
    {
        if (IsParked)
        {
            throw new InvalidOperationException($"{Name} is parked already");
        }

        // ORDER: release, as in Quiesce.
        Volatile.Write(ref _passed.Value, Never);
    }

    /// <summary>Begins a batch after having been parked.</summary>
    /// <exception cref="InvalidOperationException">It is not parked.</exception>
    public void Unpark()
    {
        if (!IsParked)
        {
            throw new InvalidOperationException($"{Name} is not parked");
        }

        // ORDER: a full fence, between no longer being parked and every load of the batch; pairs with the increment in
        // GracePeriod.Wait, between the caller's publication and the look at this: point 3 of the proof.
        Interlocked.Exchange(ref _passed.Value, _grace.Epoch);
    }
}
