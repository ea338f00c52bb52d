using System.Runtime.CompilerServices;

namespace Vfio.Litmus;

/// <summary>The control, frozen: the reader counts its batches instead of repeating the epoch that was announced, and the one who revokes
/// waits for the count to move. A full fence on the revoking side does not help: the store that matters is in the reader's buffer, behind
/// loads of its next batch. Never mend this.</summary>
internal readonly struct BuggyMovingGrace : IGrace
{
    private readonly StrongBox<PaddedLong> _epoch = new();

    public BuggyMovingGrace()
    {
    }

    public void Pass(SharedLines lines)
    {
        lines.Write(1);
        Volatile.Write(ref _epoch.Value.Value, _epoch.Value.Value + 2);
    }

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

/// <summary>The control with a reader that parks, frozen: it leaves by a plain store, without a fence before its next loads. Never
/// mend this.</summary>
internal readonly struct BuggyParkingGrace : IGrace
{
    private readonly StrongBox<PaddedLong> _epoch = new();
    private readonly StrongBox<PaddedLong> _passed = new(new PaddedLong { Value = long.MaxValue });

    public BuggyParkingGrace()
    {
    }

    public void Pass(SharedLines lines)
    {
        Leave();
        lines.Write(1);
        Enter();
    }

    public void Wait()
    {
        long epoch = Interlocked.Increment(ref _epoch.Value.Value);
        while (Volatile.Read(ref _passed.Value.Value) < epoch)
        {
        }
    }

    public void Enter() => Volatile.Write(ref _passed.Value.Value, Volatile.Read(ref _epoch.Value.Value));

    public void Leave() => Volatile.Write(ref _passed.Value.Value, long.MaxValue);
}
