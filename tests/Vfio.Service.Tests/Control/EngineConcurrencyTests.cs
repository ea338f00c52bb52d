using System.Globalization;
using Vfio.Linux;
using Vfio.Testing;

namespace Vfio.Service.Tests;

/// <summary>A device that takes long to open or close, and a pool that takes long to unpin, hold up only those who want the same one. Each
/// test is over only when what it shows to go on has gone on while the slow call still stands.</summary>
[TestClass]
public sealed class EngineConcurrencyTests(TestContext context)
{
    private static readonly PciAddress Slow = PciAddress.Parse("0000:00:04.0");
    private static readonly PciAddress Other = PciAddress.Parse("0000:00:05.0");
    private static readonly PciAddress Third = PciAddress.Parse("0000:00:06.0");

    [TestMethod]
    public async Task Others_make_plan_list_and_destroy_pools_while_a_device_opens()
    {
        using var rig = new Rig();
        using SimHold opening = rig.Host.Kernel.HoldAt("VFIO_GROUP_GET_DEVICE_FD", $"{Slow}");
        Task<PoolInfo> slow = Rig.Start(() => rig.Create("slow", Slow));
        opening.WaitUntilArrived();

        rig.WorkOn("other", Other);
        Assert.AreEqual("pool lookup", Assert.ThrowsExactly<LinuxException>(() => rig.Destroy("slow")).Call);
        Refused(Errno.EEXIST, "there is a pool of this name", () => rig.Create("slow", Other));

        Assert.IsFalse(slow.IsCompleted);
        opening.Release();
        Assert.AreEqual("slow", (await slow).Name);
        rig.Destroy("slow");
        rig.AssertNothingLeft();
    }

    [TestMethod]
    public async Task Others_go_on_while_a_device_closes_and_who_wants_that_one_waits_for_it()
    {
        using var rig = new Rig();
        rig.Create("slow", Slow);
        using SimHold closing = rig.Host.Kernel.HoldAt("close");
        Task destroy = Rig.Start(() => rig.Destroy("slow"));
        closing.WaitUntilArrived();

        // To wait is not to fail: the group is not to be had before it is closed.
        Task<PoolInfo> again = Rig.Start(() => rig.Create("slow", Slow));
        rig.WorkOn("other", Other);

        Assert.IsFalse(destroy.IsCompleted || again.IsCompleted);
        closing.Release();
        await destroy;
        Assert.AreEqual("slow", (await again).Name);
        rig.Destroy("slow");
        rig.AssertNothingLeft();
    }

    [TestMethod]
    public async Task Who_waits_for_a_device_that_closes_can_be_cancelled()
    {
        using var rig = new Rig();
        rig.Create("slow", Slow);
        using SimHold closing = rig.Host.Kernel.HoldAt("close");
        Task destroy = Rig.Start(() => rig.Destroy("slow"));
        closing.WaitUntilArrived();
        using var cancel = new CancellationTokenSource();
        Task again = Rig.Start(() => rig.Create("again", Slow, cancel.Token));
        await cancel.CancelAsync();
        await Assert.ThrowsAsync<OperationCanceledException>(() => again);
        closing.Release();
        await destroy;
        rig.AssertNothingLeft();
    }

    [TestMethod]
    public async Task Others_go_on_while_a_pool_is_unpinned_and_that_pool_says_what_it_is_at()
    {
        using var rig = new Rig();
        rig.Create("slow", Slow);
        using SimHold unmapping = rig.Host.Kernel.HoldAt("VFIO_IOMMU_UNMAP_DMA");
        Task destroy = Rig.Start(() => rig.Destroy("slow"));
        unmapping.WaitUntilArrived();

        rig.WorkOn("other", Other);
        Refused(Errno.EBUSY, "being destroyed", () => rig.Grow("slow"));
        Refused(Errno.EBUSY, "being destroyed", () => rig.Destroy("slow"));

        Assert.IsFalse(destroy.IsCompleted);
        unmapping.Release();
        await destroy;
        rig.AssertNothingLeft();
    }

    [TestMethod]
    public async Task Two_who_want_a_device_at_once_share_its_address_space()
    {
        using var rig = new Rig();
        using SimHold opening = rig.Host.Kernel.HoldAt("VFIO_GROUP_GET_DEVICE_FD", $"{Slow}");
        Task<PoolInfo> first = Rig.Start(() => rig.Create("first", Slow));
        opening.WaitUntilArrived();
        Task<PoolInfo> second = Rig.Start(() => rig.Create("second", Slow));
        Task<PoolPlanInfo> plan = Rig.Start(() => rig.Plan(Slow));
        opening.Release();
        await first;
        await second;
        Assert.IsTrue((await plan).CanWork);
        Assert.AreEqual(1, rig.Host.Kernel.Count("VFIO_SET_IOMMU"));
        Assert.HasCount(2, rig.Host.Kernel.Mappings);
        rig.Destroy("first");
        rig.Destroy("second");
        rig.AssertNothingLeft();
    }

    [TestMethod]
    public async Task A_pool_made_while_a_plan_asks_the_device_keeps_it_open()
    {
        using var rig = new Rig();
        using SimHold asking = rig.Host.Kernel.HoldAt("VFIO_GROUP_GET_DEVICE_FD", $"{Slow}");
        Task<PoolPlanInfo> plan = Rig.Start(() => rig.Plan(Slow));
        asking.WaitUntilArrived();
        Task<PoolInfo> pool = Rig.Start(() => rig.Create("pool", Slow));
        asking.Release();
        await plan;
        await pool;
        Assert.HasCount(1, rig.Host.Kernel.Mappings);
        rig.Grow("pool");
        rig.Destroy("pool");
        rig.AssertNothingLeft();
    }

    [TestMethod]
    public async Task One_whose_open_fails_takes_nobody_along()
    {
        using var rig = new Rig();
        using SimHold opening = rig.Host.Kernel.HoldAt("VFIO_GROUP_GET_DEVICE_FD", $"{Slow}");
        rig.Host.Kernel.FailAt(1, Errno.EIO, "VFIO_GROUP_GET_DEVICE_FD");
        Task<PoolInfo> first = Rig.Start(() => rig.Create("first", Slow));
        opening.WaitUntilArrived();
        Task<PoolInfo> second = Rig.Start(() => rig.Create("second", Slow));
        opening.Release();
        Assert.AreEqual(Errno.EIO, (await Assert.ThrowsExactlyAsync<LinuxException>(() => first)).Errno);
        Assert.AreEqual("second", (await second).Name);
        rig.Destroy("second");
        rig.AssertNothingLeft();
    }

    [TestMethod]
    public void A_device_of_one_address_space_is_refused_to_another_and_named_with_its_pools()
    {
        using var rig = new Rig();
        rig.Create("one", Slow);
        rig.Create("two", Other);
        LinuxException e = Refused(Errno.EBUSY, "it reaches other pools (two)", () => rig.Create("both", Slow, Other));
        StringAssert.Contains(e.Message, $"{Other}", StringComparison.Ordinal);
        Refused(Errno.EBUSY, "it reaches other pools (two)", () => rig.Plan(Slow, Other));
        // A plan adds no device to what is open.
        Assert.IsTrue(rig.Plan(Slow, Third).CanWork);
        rig.Create("three", Third);
        Assert.AreEqual(3, rig.Host.Kernel.Count("VFIO_SET_IOMMU"));
        Array.ForEach(["one", "two", "three"], rig.Destroy);
        rig.AssertNothingLeft();
    }

    [TestMethod]
    public void The_end_unpins_every_pool_that_can_be()
    {
        using var rig = new Rig();
        rig.Create("a", Slow);
        rig.Create("b", Other);
        rig.Host.Kernel.FailAt(1, Errno.EBUSY, "VFIO_IOMMU_UNMAP_DMA");
        LinuxException e = Assert.ThrowsExactly<LinuxException>(rig.Engine.Dispose);
        Assert.AreEqual(Errno.EBUSY, e.Errno);
        Assert.AreEqual(2, rig.Host.Kernel.Count("VFIO_IOMMU_UNMAP_DMA"));
        rig.AssertNothingLeft();
    }

    [TestMethod]
    public async Task Random_creating_planning_and_destroying_at_once_leaves_nothing()
    {
        int seed = Environment.TickCount;
        context.WriteLine(string.Create(CultureInfo.InvariantCulture, $"seed {seed}"));
        using var rig = new Rig();
        await Task.WhenAll(Enumerable.Range(0, 4).Select(worker => Rig.Start(() =>
        {
            var random = new Random(seed + worker);
            for (int step = 0; step < 60; step++)
            {
                string name = $"pool{random.Next(5)}";
                PciAddress[] devices = random.Next(4) switch { 0 => [Slow], 1 => [Other], 2 => [Slow, Other], _ => [Third] };
                try
                {
                    switch (random.Next(4))
                    {
                        case 0:
                            rig.Destroy(name);
                            break;
                        case 1:
                            rig.Plan(devices);
                            break;
                        default:
                            rig.Create(name, devices);
                            break;
                    }
                }
                catch (LinuxException e) when (e.Errno is Errno.ENOENT or Errno.EEXIST || (e.Errno == Errno.EBUSY && !e.Call.StartsWith("open(", StringComparison.Ordinal)))
                {
                    // No such pool, there is one already, a device of another address space: never a group that is not closed yet.
                    continue;
                }
            }

            return worker;
        })));

        foreach (PoolInfo pool in rig.List())
        {
            rig.Destroy(pool.Name);
        }

        rig.AssertNothingLeft();
    }

    private static LinuxException Refused(Errno errno, string why, Action action)
    {
        LinuxException e = Assert.ThrowsExactly<LinuxException>(action);
        Assert.AreEqual(errno, e.Errno);
        StringAssert.Contains(e.Message, why, StringComparison.Ordinal);
        return e;
    }

    private sealed class Rig : IDisposable
    {
        public Rig()
        {
            Host.Add(new SimPlainDevice(Slow), 4);
            Host.Add(new SimPlainDevice(Other), 5);
            Host.Add(new SimPlainDevice(Third), 6);
            Engine = new Engine(Host.Kernel, Host.Sysfs);
        }

        public SimHost Host { get; } = new();

        public Engine Engine { get; }

        public static Task<T> Start<T>(Func<T> work) => Task.Factory.StartNew(work, CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default);

        public static Task Start(Action work) => Task.Factory.StartNew(work, CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default);

        public PoolInfo Create(string name, params PciAddress[] devices) => PoolOperations.Create.Run(Engine, Request(name, devices), new OperationContext());

        public PoolInfo Create(string name, PciAddress device, CancellationToken cancellation) =>
            PoolOperations.Create.Run(Engine, Request(name, [device]), new OperationContext { Cancellation = cancellation });

        public PoolPlanInfo Plan(params PciAddress[] devices) => PoolOperations.Plan.Run(Engine, Request("plan", devices), new OperationContext());

        public PoolInfo[] List() => PoolOperations.List.Run(Engine, new NoParameters(), new OperationContext());

        public void Grow(string name) => PoolOperations.Grow.Run(Engine, new PoolGrowth(name, 4096), new OperationContext());

        public void Destroy(string name) => PoolOperations.Destroy.Run(Engine, new PoolName(name), new OperationContext());

        /// <summary>All that one does with a pool.</summary>
        public void WorkOn(string name, PciAddress device)
        {
            Assert.IsTrue(Plan(device).CanWork);
            Create(name, device);
            Grow(name);
            Assert.IsTrue(List().Any(p => p.Name == name));
            Destroy(name);
        }

        public void AssertNothingLeft()
        {
            Assert.IsEmpty(List());
            Host.Kernel.AssertNothingLeft();
        }

        public void Dispose()
        {
            Engine.Dispose();
            Host.Dispose();
        }

        private static PoolRequest Request(string name, PciAddress[] devices) => new(name, 64 * 1024) { Devices = devices, PageSizes = ["4KiB"] };
    }
}
