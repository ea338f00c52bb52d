namespace Vfio.Litmus;

/// <summary>What a reader does at the end of a batch, and what the one who revokes does: the real class or the broken one.</summary>
internal interface IGrace
{
    /// <summary>Between two batches.</summary>
    /// <param name="lines">Written on the way, before the store that lets the reader begin its next batch: that is to be late.</param>
    void Pass(SharedLines lines);

    /// <summary>Until no reader can hold what was there before.</summary>
    void Wait();

    /// <summary>Makes the reader's thread count, or not any more.</summary>
    void Enter();

    /// <summary>See <see cref="Enter"/>.</summary>
    void Leave();
}

/// <summary>Reader that goes from batch to batch.</summary>
internal readonly struct MovingGrace : IGrace
{
    private readonly GracePeriod _grace = new();
    private readonly GracePeriodReader _reader;

    public MovingGrace() => _reader = _grace.Register("litmus reader");

    public void Pass(SharedLines lines)
    {
        lines.Write(1);
        _reader.Quiesce();
    }

    public void Wait() => _grace.Wait(TimeSpan.FromSeconds(60));

    public void Enter() => _reader.Unpark();

    public void Leave() => _reader.Park();
}

/// <summary>Reader that parks between batches.</summary>
internal readonly struct ParkingGrace : IGrace
{
    private readonly GracePeriod _grace = new();
    private readonly GracePeriodReader _reader;

    public ParkingGrace() => _reader = _grace.Register("litmus reader");

    public void Pass(SharedLines lines)
    {
        _reader.Park();
        lines.Write(1);
        _reader.Unpark();
    }

    public void Wait() => _grace.Wait(TimeSpan.FromSeconds(60));

    public void Enter() => _reader.Unpark();

    public void Leave() => _reader.Park();
}
