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

    [TestMethod]
    public unsafe void A_peer_that_fills_the_counter_and_makes_it_block_holds_nobody_up()
    {
        using var theirs = new EventFd();
        using EventFd ours = EventFd.TryAdopt(new FileDescriptor(LinuxKernel.Instance, LibC.dup(theirs.Descriptor.Number)))!;
        ulong most = ulong.MaxValue - 1;
        // SAFETY: eight bytes of a local.
        Assert.AreEqual(8, LibC.write(theirs.Descriptor.Number, &most, 8));
        Assert.AreEqual(0, LibC.fcntl(theirs.Descriptor.Number, Fcntl.F_SETFL, 0));
        var thread = new Thread(() =>
        {
            for (int i = 0; i < 2000; i++)
            {
                ours.Signal();
            }
        });
        thread.IsBackground = true;
        thread.Start();
        Assert.IsTrue(thread.Join(TimeSpan.FromSeconds(60)), "the signal waits for the peer");
    }

    [TestMethod]
    public void A_shared_one_counts_each_signal_of_many_threads()
    {
        using var theirs = new EventFd();
        using EventFd ours = EventFd.TryAdopt(new FileDescriptor(LinuxKernel.Instance, LibC.dup(theirs.Descriptor.Number)))!;
        Thread[] threads = [.. Enumerable.Range(0, 3).Select(_ => new Thread(() =>
        {
            for (int i = 0; i < 3000; i++)
            {
                ours.Signal();
            }
        }))];
        Array.ForEach(threads, t => t.Start());
        Array.ForEach(threads, t => t.Join());
        Assert.AreEqual(9000ul, theirs.Take());
    }
}
