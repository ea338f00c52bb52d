using System.Runtime.CompilerServices;

namespace Vfio.Litmus;

/// <summary>The control, frozen: epochs by plain store and no barrier across the process. A full fence on the revoking side does not
/// help, as the store that matters is in the reader's buffer. Never mend this.</summary>
internal readonly struct BuggyMovingGrace : IGrace
{
    private readonly StrongBox<PaddedLong> _epoch = new();

    public BuggyMovingGrace()
    {
    }

    public void Pass() => Volatile.Write(ref _epoch.Value.Value, _epoch.Value.Value + 2);

    public void Wait()
    {
        Interlocked.MemoryBarrier();
        long sample = Volatile.Read(ref _epoch.Value.Value);
        while ((sample & 1) == 0 && Volatile.Read(ref _epoch.Value.Value) == sample)
        {
        }
    }

    public void Enter()
    {
    }

    public void Leave() => Volatile.Write(ref _epoch.Value.Value, _epoch.Value.Value + 1);
}

/// <summary>The control with a reader that parks, frozen. Never mend this.</summary>
internal readonly struct BuggyParkingGrace : IGrace
{
    private readonly BuggyMovingGrace _grace = new();

    public BuggyParkingGrace()
    {
    }

    public void Pass()
    {
        _grace.Leave();
        _grace.Leave();
    }

    public void Wait() => _grace.Wait();

    public void Enter()
    {
    }

    public void Leave() => _grace.Leave();
}
