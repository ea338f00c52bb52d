using System.Collections.Concurrent;
using Vfio.Linux;
using Vfio.Testing;

namespace Vfio.Service.Tests;

[TestClass]
public sealed class PoolPopulateTests
{
    // Pieces of the populator are 32 MiB: enough of them for two threads.
    private const ulong Size = 64 << 20;

    private static readonly PciAddress Address = PciAddress.Parse("0000:00:04.0");

    [TestMethod]
    public void A_pool_that_is_made_and_one_that_grows_tell_how_far_they_are_over_the_socket()
    {
        using var host = new SimHost();
        host.Add(new SimPlainDevice(Address), 3);
        using var engine = new Engine(host.Kernel, host.Sysfs);
        using var daemon = new DaemonFixture(engine);
        using ControlClient client = daemon.Connect();
        var made = new ConcurrentQueue<ProgressReport>();
        client.Invoke(PoolOperations.Create, Request(threads: 2), new OperationContext { Progress = made.Enqueue });
        var grown = new ConcurrentQueue<ProgressReport>();
        client.Invoke(PoolOperations.Grow, new PoolGrowth("a", Size) { PopulateThreads = 2 }, new OperationContext { Progress = grown.Enqueue });
        Assert.AreEqual(new ProgressReport("populating", Size, Size), made.Last());
        Assert.AreEqual(new ProgressReport("populating", Size, Size), grown.Last());
        client.Invoke(PoolOperations.Destroy, new PoolName("a"), new OperationContext());
    }

    [TestMethod]
    public void One_thread_that_was_asked_for_is_the_callers_own()
    {
        using var host = new SimHost();
        host.Add(new SimPlainDevice(Address), 3);
        using var engine = new Engine(host.Kernel, host.Sysfs);
        var threads = new ConcurrentQueue<int>();
        var context = new OperationContext { Progress = _ => threads.Enqueue(Environment.CurrentManagedThreadId) };
        PoolOperations.Create.Run(engine, Request(threads: 1), context);
        int made = threads.Count;
        PoolOperations.Grow.Run(engine, new PoolGrowth("a", Size) { PopulateThreads = 1 }, context);
        PoolOperations.Grow.Run(engine, new PoolGrowth("a", Size), context);
        Assert.IsGreaterThanOrEqualTo(2, made);
        Assert.IsGreaterThanOrEqualTo(6, threads.Count);
        Assert.IsTrue(threads.All(t => t == Environment.CurrentManagedThreadId));
        PoolOperations.Destroy.Run(engine, new PoolName("a"), new OperationContext());
    }

    [TestMethod]
    [DataRow(-1)]
    [DataRow(PoolRequest.MostPopulateThreads + 1)]
    public void A_number_of_threads_that_makes_no_sense_is_refused_and_nothing_is_made(int threads)
    {
        using var host = new SimHost();
        host.Add(new SimPlainDevice(Address), 3);
        using var engine = new Engine(host.Kernel, host.Sysfs);
        LinuxException e = Assert.ThrowsExactly<LinuxException>(() => PoolOperations.Create.Run(engine, Request(threads), new OperationContext()));
        Assert.AreEqual(Errno.EINVAL, e.Errno);
        Assert.Contains("1 to 256 threads", e.Message);
        Assert.IsEmpty(engine.Pools);
        PoolOperations.Create.Run(engine, Request(threads: 2), new OperationContext());
        Assert.ThrowsExactly<LinuxException>(
            () => PoolOperations.Grow.Run(engine, new PoolGrowth("a", Size) { PopulateThreads = threads }, new OperationContext()));
        Assert.AreEqual(Size, engine.GetPool("a").Pool.Length);
        PoolOperations.Destroy.Run(engine, new PoolName("a"), new OperationContext());
    }

    private static PoolRequest Request(int threads) => new("a", Size) { Devices = [Address], PageSizes = ["4KiB"], PopulateThreads = threads };
}
