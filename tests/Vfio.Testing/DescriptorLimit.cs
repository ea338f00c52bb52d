using Vfio.Linux;

namespace Vfio.Testing;

/// <summary>Leaves this process few descriptors, until it is disposed. No other test may run meanwhile.</summary>
public sealed unsafe class DescriptorLimit : IDisposable
{
    private readonly rlimit _former;

    /// <summary>Lowers the limit.</summary>
    /// <param name="free">How many descriptors can still be opened.</param>
    public DescriptorLimit(int free)
    {
        // The limit is on the number, not on the count: below it there may be holes.
        var open = Directory.GetFiles("/proc/self/fd").Select(f => ulong.Parse(Path.GetFileName(f), null)).ToHashSet();
        ulong limit = 0;
        for (; free > 0; limit++)
        {
            free -= open.Contains(limit) ? 0 : 1;
        }

        rlimit former;
        Check(LibC.getrlimit(Resource.RLIMIT_NOFILE, &former));
        _former = former;
        former.rlim_cur = limit;
        Check(LibC.setrlimit(Resource.RLIMIT_NOFILE, &former));
    }

    public void Dispose()
    {
        rlimit former = _former;
        Check(LibC.setrlimit(Resource.RLIMIT_NOFILE, &former));
    }

    private static void Check(int result)
    {
        if (result < 0)
        {
            throw new LinuxException("rlimit", (Errno)LibC.errno, "RLIMIT_NOFILE");
        }
    }
}
