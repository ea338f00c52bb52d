namespace Vfio.Testing;

/// <summary>A call of the simulated kernel that is held up, as a device is that takes long to reset.</summary>
public sealed class SimHold : IDisposable
{
    // Only ends a test that would hang.
    private static readonly TimeSpan Patience = TimeSpan.FromMinutes(2);

    private readonly TaskCompletionSource _arrived = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly TaskCompletionSource _released = new(TaskCreationOptions.RunContinuationsAsynchronously);

    /// <summary>Waits until somebody makes the call.</summary>
    public void WaitUntilArrived() => Assert.IsTrue(_arrived.Task.Wait(Patience), "nobody made the call that is to be held up");

    /// <summary>Lets the call go on.</summary>
    public void Release() => _released.TrySetResult();

    /// <summary><see cref="Release"/>.</summary>
    public void Dispose() => Release();

    internal void Arrive()
    {
        _arrived.TrySetResult();
        _released.Task.Wait();
    }
}
