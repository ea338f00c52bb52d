namespace Vfio.Linux.Tests;

[TestClass]
public sealed class EventFdTests
{
    [TestMethod]
    public void Signals_add_up_and_are_taken_at_once()
    {
        using var eventFd = new EventFd();
        Assert.AreEqual(0ul, eventFd.Take());
        eventFd.Signal();
        eventFd.Signal();
        Assert.AreEqual(2ul, eventFd.Take());
        Assert.AreEqual(0ul, eventFd.Take());
    }

    [TestMethod]
    public void Wait_ends_at_once_when_signalled_and_when_its_time_is_over()
    {
        using var eventFd = new EventFd();
        Assert.IsFalse(eventFd.Wait(TimeSpan.Zero));
        Assert.IsFalse(eventFd.Wait(TimeSpan.FromMilliseconds(1)));
        eventFd.Signal();
        Assert.IsTrue(eventFd.Wait(Timeout.InfiniteTimeSpan));
        Assert.AreEqual(1ul, eventFd.Take());
    }

    [TestMethod]
    public void Wait_is_ended_by_a_signal_of_another_thread()
    {
        using var eventFd = new EventFd();
        var thread = new Thread(eventFd.Signal);
        thread.Start();
        Assert.IsTrue(eventFd.Wait(TimeSpan.FromSeconds(30)));
        thread.Join();
    }

    [TestMethod]
    public unsafe void Full_counter_is_a_signal_and_no_error()
    {
        using var eventFd = new EventFd();
        ulong most = ulong.MaxValue - 1;
        // SAFETY: eight bytes of a local.
        Assert.AreEqual(8, LibC.write(eventFd.Descriptor.Number, &most, 8));
        eventFd.Signal();
        Assert.AreEqual(most, eventFd.Take());
    }

    [TestMethod]
    public void Disposed_one_says_so()
    {
        var eventFd = new EventFd();
        eventFd.Dispose();
        Assert.ThrowsExactly<ObjectDisposedException>(eventFd.Signal);
    }
}
