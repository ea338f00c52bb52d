using Vfio.Linux;
using Vfio.Testing;
using Vfio.Testing.VhostUser;
using Vfio.VhostUser;

namespace Vfio.Service.Tests;

/// <summary>Where frames are on their way, on a simulated machine whose only device reaches pinned memory alone.</summary>
[TestClass]
public sealed class PortMemoryTests : IDisposable
{
    private const string Device = "0000:00:05.0";

    private readonly string _directory = Directory.CreateTempSubdirectory("vfiopin-port-").FullName;
    private readonly SimHost _host = new();
    private readonly Engine _engine;

    public PortMemoryTests()
    {
        _host.Add(new SimPlainDevice(PciAddress.Parse(Device)), group: 5);
        _engine = new Engine(_host.Kernel, _host.Sysfs);
    }

    private string SocketPath => Path.Combine(_directory, "vm0");

    public void Dispose()
    {
        _engine.Dispose();
        _host.Dispose();
        Directory.Delete(_directory, recursive: true);
    }

    [TestMethod]
    public void Memory_of_a_ports_own_is_pinned_for_its_device_as_long_as_the_port_is_there()
    {
        PortInfo added = Add(new PortRequest("vm0") { Devices = [PciAddress.Parse(Device)] });
        Assert.AreEqual("port-vm0", added.Pool);
        Assert.HasCount(1, _host.Kernel.Mappings);
        PoolInfo pool = Show("port-vm0");
        Assert.AreEqual(FrameBatch.Capacity, pool.BuffersInUse);
        Assert.AreEqual((ulong)FrameBatch.Capacity * FrameBatch.BufferSize, pool.PinnedBytes);
        using (var guest = new PortGuest(SocketPath))
        {
            Assert.IsTrue(guest.RoundTrip(1));
        }

        StringAssert.Contains(Refused(() => _engine.DestroyPool("port-vm0")), "the pool is in use by port vm0", StringComparison.Ordinal);
        Remove();
        _host.Kernel.AssertNothingLeft();
    }

    [TestMethod]
    public void A_port_may_take_buffers_of_a_pool_which_then_cannot_be_destroyed()
    {
        MakePool("small", 64 << 10);
        StringAssert.Contains(
            Refused(() => Add(new PortRequest("vm0") { Pool = "small" })), "make the pool with --buffer-size 128KiB", StringComparison.Ordinal);
        MakePool("frames", FrameBatch.BufferSize);
        Assert.AreEqual("frames", Add(new PortRequest("vm0") { Pool = "frames" }).Pool);
        Assert.AreEqual(FrameBatch.Capacity, Show("frames").BuffersInUse);
        StringAssert.Contains(Refused(() => _engine.DestroyPool("frames")), "the pool is in use by port vm0", StringComparison.Ordinal);
        StringAssert.Contains(
            Refused(() => Add(new PortRequest("vm1") { Pool = "frames", SocketPath = SocketPath + "1" })),
            "all memory of the pool is rented", StringComparison.Ordinal);
        Assert.IsFalse(File.Exists(SocketPath + "1"));
        Remove();
        Assert.AreEqual(0, Show("frames").BuffersInUse);
        _engine.DestroyPool("frames");
        _engine.DestroyPool("small");
        _host.Kernel.AssertNothingLeft();
    }

    // A poller holds it without a lock: it is rented until the poller has let go, and what is rented is not unmapped.
    [TestMethod]
    public void Memory_that_a_poller_has_frames_in_is_not_taken_off_a_pool()
    {
        MakePool("frames", FrameBatch.BufferSize);
        Add(new PortRequest("vm0") { Pool = "frames" });
        PoolOperations.Grow.Run(_engine, new PoolGrowth("frames", 4 << 20), new OperationContext());
        // The first port has all of the first segment.
        Add(new PortRequest("vm1") { Pool = "frames", SocketPath = SocketPath + "1" });
        using (var guest = new PortGuest(SocketPath + "1"))
        {
            Assert.IsTrue(guest.RoundTrip(1));
            StringAssert.Contains(Refused(Shrink), "EBUSY", StringComparison.Ordinal);
            Assert.HasCount(2, _host.Kernel.Mappings);
            Assert.IsTrue(guest.RoundTrip(2));
        }

        PortOperations.Remove.Run(_engine, new PortName("vm1"), new OperationContext());
        Shrink();
        Assert.HasCount(1, _host.Kernel.Mappings);
        Remove();
        _engine.DestroyPool("frames");
        _host.Kernel.AssertNothingLeft();
    }

    [TestMethod]
    public void The_record_of_written_pages_has_all_that_frames_may_be_in()
    {
        MakePool("frames", FrameBatch.BufferSize);
        DirtyOperations.Start.Run(_engine, new DirtyRequest("frames"), new OperationContext());
        Add(new PortRequest("vm0") { Pool = "frames" });
        ulong pages = (ulong)FrameBatch.Capacity * FrameBatch.BufferSize / DirtyBitmap.PageSize;
        DirtyInfo running = DirtyOperations.Look.Run(_engine, new DirtyRequest("frames"), new OperationContext());
        Assert.AreEqual(pages, running.InFlightPages);
        Assert.AreEqual(pages, running.DirtyPages);
        Remove();
        DirtyInfo ended = DirtyOperations.Look.Run(_engine, new DirtyRequest("frames"), new OperationContext());
        Assert.AreEqual(0ul, ended.InFlightPages);
        Assert.AreEqual(pages, ended.DirtyPages);
    }

    [TestMethod]
    public void Every_kernel_call_of_port_add_may_fail_and_leaves_nothing()
    {
        int before = _host.Kernel.FailableCalls;
        Add(new PortRequest("vm0") { Devices = [PciAddress.Parse(Device)] });
        int calls = _host.Kernel.FailableCalls - before;
        Remove();
        Assert.IsGreaterThan(5, calls);
        for (int n = 1; n <= calls; n++)
        {
            _host.Kernel.FailAt(n, Errno.EIO);
            string? error = null;
            try
            {
                Add(new PortRequest("vm0") { Devices = [PciAddress.Parse(Device)] });
            }
            catch (LinuxException e)
            {
                error = e.Message;
            }

            _host.Kernel.FailNothing();
            if (error is null)
            {
                Remove();
            }

            Assert.IsEmpty(_engine.Net.Ports, $"call {n}");
            Assert.IsFalse(File.Exists(SocketPath), $"call {n}");
            _host.Kernel.AssertNothingLeft();
        }
    }

    [TestMethod]
    public void The_end_of_the_engine_ends_sessions_and_unpins()
    {
        Add(new PortRequest("vm0") { Devices = [PciAddress.Parse(Device)] });
        using var guest = new PortGuest(SocketPath);
        Assert.IsTrue(guest.RoundTrip(1));
        _engine.Dispose();
        Assert.IsTrue(guest.IsCutOff());
        Assert.IsFalse(File.Exists(SocketPath));
        _host.Kernel.AssertNothingLeft();
    }

    private static string Refused(Action action) => Assert.Throws<LinuxException>(action).Message;

    private PortInfo Add(PortRequest request) =>
        PortOperations.Add.Run(_engine, request with { SocketPath = request.SocketPath ?? SocketPath, PageSizes = ["4KiB"] }, new OperationContext());

    private void Remove() => PortOperations.Remove.Run(_engine, new PortName("vm0"), new OperationContext());

    private PoolInfo Show(string name) => PoolOperations.Show.Run(_engine, new PoolName(name), new OperationContext());

    private void Shrink() => PoolOperations.Shrink.Run(_engine, new PoolChange("frames", 4 << 20), new OperationContext());

    private void MakePool(string name, int bufferSize) => PoolOperations.Create.Run(
        _engine,
        new PoolRequest(name, 4 << 20) { Devices = [PciAddress.Parse(Device)], PageSizes = ["4KiB"], BufferSize = bufferSize },
        new OperationContext());
}
