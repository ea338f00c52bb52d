using Vfio.Linux;
using Vfio.Testing;

namespace Vfio.Service.Tests;

[TestClass]
public sealed class PoolShareTests
{
    private static readonly PciAddress Address = PciAddress.Parse("0000:00:04.0");

    [TestMethod]
    public void What_an_attached_command_or_an_export_uses_is_not_cut_off_and_a_device_is_stopped_at_the_end()
    {
        using var host = new SimHost();
        SimPlainDevice model = host.Add(new SimPlainDevice(Address), 3);
        using var engine = new Engine(host.Kernel, host.Sysfs);
        PoolOperations.Create.Run(engine, new PoolRequest("a", 4 << 20) { Devices = [Address], PageSizes = ["4KiB"] }, new OperationContext());
        PoolOperations.Grow.Run(engine, new PoolGrowth("a", 1 << 20), new OperationContext());
        Action? atEnd = null;
        AttachOperations.Attach.Run(engine, new PoolName("a"), new OperationContext { Hold = a => atEnd = a });
        Refused(() => Shrink(engine), "an attached command");
        int before = model.Resets;
        atEnd!();
        Assert.AreEqual(before + 1, model.Resets);

        Action reading = engine.GetPool("a").Use("dirty export", PoolShare.Reads);
        Refused(() => Shrink(engine), "dirty export");
        reading();
        Shrink(engine);
        PoolOperations.Destroy.Run(engine, new PoolName("a"), new OperationContext());
    }

    private static void Shrink(Engine engine) => PoolOperations.Shrink.Run(engine, new PoolChange("a", 1 << 20), new OperationContext());

    private static void Refused(Action action, string who)
    {
        LinuxException e = Assert.ThrowsExactly<LinuxException>(action);
        Assert.AreEqual(Errno.EBUSY, e.Errno);
        StringAssert.Contains(e.Message, who, StringComparison.Ordinal);
    }
}
