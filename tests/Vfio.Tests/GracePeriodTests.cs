using System.Diagnostics;

namespace Vfio.Tests;

[TestClass]
public sealed class GracePeriodTests
{
    [TestMethod]
    public void Wait_returns_at_once_when_every_reader_is_parked()
    {
        var grace = new GracePeriod();
        grace.Register("idle");
        grace.Wait(TimeSpan.Zero);
    }

    [TestMethod]
    public void A_reader_that_stays_in_its_batch_is_named()
    {
        var grace = new GracePeriod();
        GracePeriodReader reader = grace.Register("poller-7");
        reader.Unpark();
        TimeoutException stalled = Assert.ThrowsExactly<TimeoutException>(() => grace.Wait(TimeSpan.FromMilliseconds(5)));
        StringAssert.Contains(stalled.Message, "poller-7");
        reader.Park();
        grace.Wait(TimeSpan.Zero);
    }

    [TestMethod]
    public void Only_a_batch_that_ends_after_the_call_counts()
    {
        var grace = new GracePeriod();
        GracePeriodReader reader = grace.Register("reader");
        reader.Unpark();
        for (int i = 0; i < 3; i++)
        {
            reader.Quiesce();
            Assert.ThrowsExactly<TimeoutException>(() => grace.Wait(TimeSpan.FromMilliseconds(1)));
        }

        bool isOver = false;
        var passing = new Thread(() =>
        {
            while (!Volatile.Read(ref isOver))
            {
                reader.Quiesce();
            }
        })
        { IsBackground = true };
        passing.Start();
        grace.Wait(TimeSpan.FromSeconds(60));
        Assert.IsFalse(reader.IsParked);
        Volatile.Write(ref isOver, true);
        passing.Join();
        reader.Park();
        grace.Wait(TimeSpan.Zero);
        reader.Unpark();
        Assert.ThrowsExactly<TimeoutException>(() => grace.Wait(TimeSpan.FromMilliseconds(1)));
    }

    [TestMethod]
    public void Each_reader_has_the_whole_time_for_its_batch()
    {
        var grace = new GracePeriod();
        GracePeriodReader[] readers = [grace.Register("first"), grace.Register("second")];
        foreach (GracePeriodReader reader in readers)
        {
            reader.Unpark();
        }

        var passing = new Thread(() =>
        {
            var batch = Stopwatch.StartNew();
            foreach (GracePeriodReader reader in readers)
            {
                SpinWait.SpinUntil(() => batch.ElapsedMilliseconds > 600);
                reader.Park();
                batch.Restart();
            }
        });
        passing.Start();
        grace.Wait(TimeSpan.FromSeconds(1));
        Assert.IsTrue(readers[1].IsParked);
        passing.Join();
    }

    [TestMethod]
    public void A_reader_that_still_reads_cannot_be_forgotten()
    {
        var grace = new GracePeriod();
        GracePeriodReader reader = grace.Register("busy");
        reader.Unpark();
        Assert.ThrowsExactly<InvalidOperationException>(() => grace.Unregister(reader));
        reader.Park();
        grace.Unregister(reader);
    }

    // The real race: a reader follows a published pointer while another thread retires what it points at. A retired object is
    // marked only after Wait, so a reader that meets the mark was let through too early.
    [TestMethod]
    public void What_is_retired_after_Wait_is_never_met_by_a_reader()
    {
        var grace = new GracePeriod();
        var current = new Cell();
        bool stop = false;
        long met = 0;
        long batches = 0;
        var threads = new Thread[2];
        // A reader that has not begun is parked, and lets everything through.
        using var begun = new CountdownEvent(threads.Length);
        for (int t = 0; t < threads.Length; t++)
        {
            GracePeriodReader reader = grace.Register($"reader {t}");
            bool parks = t == 1;
            threads[t] = new Thread(() =>
            {
                reader.Unpark();
                for (long n = 0; !Volatile.Read(ref stop); n++)
                {
                    Cell cell = Volatile.Read(ref current);
                    for (int i = 0; i < 20; i++)
                    {
                        if (Volatile.Read(ref cell.Retired))
                        {
                            Interlocked.Increment(ref met);
                        }
                    }

                    if (parks && n % 64 == 0)
                    {
                        reader.Park();
                        reader.Unpark();
                    }
                    else
                    {
                        reader.Quiesce();
                    }

                    Interlocked.Increment(ref batches);
                    if (n == 0)
                    {
                        begun.Signal();
                    }
                }

                reader.Park();
            });
            threads[t].Start();
        }

        begun.Wait();
        for (int i = 0; i < 300; i++)
        {
            Cell old = current;
            Volatile.Write(ref current, new Cell());
            grace.Wait(TimeSpan.FromSeconds(60));
            Volatile.Write(ref old.Retired, true);
        }

        Volatile.Write(ref stop, true);
        foreach (Thread thread in threads)
        {
            thread.Join();
        }

        Assert.AreEqual(0, met);
        Assert.IsGreaterThan(0, batches);
    }

    private sealed class Cell
    {
        public bool Retired;
    }
}
