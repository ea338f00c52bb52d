using System.Diagnostics;
using System.Text;
using Vfio.Linux;

namespace Vfio.GuestTests;

/// <summary>A DMA fault provoked on purpose: tells the run's check of the kernel log so (the markers that <c>tools/vm</c>
/// describes), and on disposal waits until the kernel has reported it.</summary>
/// <remarks>The report comes from an interrupt thread, so later than the transfer. One object for each fault: while one is
/// not handled, the IOMMU records no other of the same device.</remarks>
internal sealed unsafe class ExpectedFault : IDisposable
{
    private const string Log = "/dev/kmsg";
    private readonly FileDescriptor _log;
    private readonly string _report;

    public ExpectedFault(Iova address)
    {
        _report = $"fault addr {address} ";
        _log = FileDescriptor.Open(LinuxKernel.Instance, Log, Fcntl.O_RDONLY | Fcntl.O_NONBLOCK);
        while (TryRead() is not null)
        {
            // What was logged before is not ours.
        }

        File.WriteAllText(Log, "vfiopin-test: faults expected\n");
    }

    public void Dispose()
    {
        var clock = Stopwatch.StartNew();
        while (TryRead() is not { } line || !line.Contains(_report, StringComparison.Ordinal))
        {
            Assert.IsLessThan(30, clock.Elapsed.TotalSeconds, $"the kernel did not report: {_report}");
            var poll = new pollfd { fd = _log.Number, events = Poll.POLLIN };
            // SAFETY: one pollfd, a local.
            _ = LibC.poll(&poll, 1, 1000);
        }

        File.WriteAllText(Log, "vfiopin-test: faults over\n");
        _log.Dispose();
    }

    // One read(2) of /dev/kmsg is one record (Documentation/ABI/testing/dev-kmsg). EPIPE: records were overwritten before
    // they were read; the next read goes on after them.
    private string? TryRead()
    {
        byte[] buffer = new byte[8192];
        nint length;
        do
        {
            length = LinuxKernel.Instance.Pread(_log.Number, buffer, 0);
        }
        while (length == -(nint)(int)Errno.EPIPE);

        return length == -(nint)(int)Errno.EAGAIN ? null
            : length < 0 ? throw new LinuxException("read", (Errno)(-length), Log)
            : Encoding.UTF8.GetString(buffer, 0, (int)length);
    }
}
