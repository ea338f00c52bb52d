using Vfio.Linux;
using Vfio.VhostUser;

namespace Vfio.Service.Tests;

/// <summary>An engine for ports, a directory for their sockets, and what was logged.</summary>
public abstract class PortFixture : IDisposable
{
    private readonly string _directory = Directory.CreateTempSubdirectory("vfiopin-port-").FullName;
    private readonly List<string> _log = [];

    protected PortFixture() => Engine = new Engine(log: Note);

    protected Engine Engine { get; }

    /// <summary>Logging a line that has this in it throws.</summary>
    protected string? LineThatThrows { get; set; }

    public void Dispose()
    {
        Dispose(disposing: true);
        GC.SuppressFinalize(this);
    }

    protected virtual void Dispose(bool disposing)
    {
        Engine.Dispose();
        Directory.Delete(_directory, recursive: true);
    }

    protected static PinnedPool FramePool(uint pairs = 1) => PinnedPool.Create(new PinnedPoolOptions
    {
        Name = "frames",
        Size = pairs * FrameBatch.Capacity * FrameBatch.BufferSize,
        Backings = [MemoryBacking.Pages4KiB],
        BufferSize = FrameBatch.BufferSize,
    });

    protected string Path(string name) => System.IO.Path.Combine(_directory, name);

    protected PortRequest Request(string name) => new(name) { SocketPath = Path(name), PageSizes = ["4KiB"] };

    protected PortInfo Add(PortRequest request) => PortOperations.Add.Run(Engine, request, new OperationContext());

    protected PortInfo Show(string name) => PortOperations.Show.Run(Engine, new PortName(name), new OperationContext());

    protected PortInfo Remove(string name) => PortOperations.Remove.Run(Engine, new PortName(name), new OperationContext());

    private protected void Note(string line)
    {
        lock (_log)
        {
            _log.Add(line);
        }

        if (LineThatThrows is { } provoked && line.Contains(provoked, StringComparison.Ordinal))
        {
            throw new InvalidOperationException("provoked");
        }
    }

    protected string[] Logged()
    {
        lock (_log)
        {
            return [.. _log];
        }
    }

    protected void AssertRefused(Errno errno, PortRequest request, string? cause)
    {
        LinuxException e = Assert.Throws<LinuxException>(() => Add(request));
        Assert.AreEqual(errno, e.Errno, e.Message);
        if (cause is not null)
        {
            StringAssert.Contains(e.Message, cause, StringComparison.Ordinal);
        }
    }
}
