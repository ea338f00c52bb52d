using System.Runtime.InteropServices;

namespace Vfio;

/// <summary>One thread that reads shared pointers in batches.</summary>
public sealed class GracePeriodReader
{
    private Padded _padded = new() { Epoch = 1 };
    private int _parkedBy;

    internal GracePeriodReader(string name) => Name = name;

    /// <summary>Names the thread in messages.</summary>
    public string Name { get; }

    /// <summary>Whether it is outside any batch, and holds nothing.</summary>
    public bool IsParked => Parked(Epoch);

    // Only the thread that parked finds its own number.
    internal bool IsParkedHere => IsParked && _parkedBy == Environment.CurrentManagedThreadId;

    // ORDER: acquire: what the reader did before the epoch is over; pairs with the release in Quiesce and Park.
    internal long Epoch => Volatile.Read(ref _padded.Epoch);

    /// <summary>Ends a batch and begins the next: nothing read before may be used after.</summary>
    // ORDER: release after the batch's last access. No fence towards the next batch's loads: see the proof at GracePeriod.
    public void Quiesce() => Volatile.Write(ref _padded.Epoch, _padded.Epoch + 2);

    /// <summary>Ends the last batch: the thread is about to wait, or to end.</summary>
    /// <exception cref="InvalidOperationException">It is parked already.</exception>
    public void Park()
    {
        if (IsParked)
        {
            throw new InvalidOperationException($"{Name} is parked already");
        }

        _parkedBy = Environment.CurrentManagedThreadId;
        // ORDER: release, as in Quiesce.
        Volatile.Write(ref _padded.Epoch, _padded.Epoch + 1);
    }

    /// <summary>Begins a batch after having been parked.</summary>
    /// <exception cref="InvalidOperationException">It is not parked.</exception>
    public void Unpark()
    {
        if (!IsParked)
        {
            throw new InvalidOperationException($"{Name} is not parked");
        }

        // ORDER: before every load of the batch as far as GracePeriod.Wait can tell: point 3 of the proof.
        Volatile.Write(ref _padded.Epoch, _padded.Epoch + 1);
    }

    internal static bool Parked(long epoch) => (epoch & 1) != 0;

    // The epoch has its cache lines (and the ones the prefetcher pairs with them) to itself.
    [StructLayout(LayoutKind.Explicit, Size = 256)]
    private struct Padded
    {
        [FieldOffset(128)]
        public long Epoch;
    }
}
