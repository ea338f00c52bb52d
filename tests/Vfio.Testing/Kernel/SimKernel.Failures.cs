using Vfio.Linux;

namespace Vfio.Testing;

/// <content>What a test provokes and what it finds out afterwards.</content>
public sealed unsafe partial class SimKernel
{
    private readonly List<SimCall> _calls = [];
    private readonly List<DmaFault> _faults = [];
    private readonly List<(int Left, string? Name, Errno Errno)> _failures = [];
    private readonly List<(HostAddress Page, Errno Errno)> _badPages = [];
    private readonly List<(string Call, string? Arguments, SimHold Hold)> _holds = [];
    private Errno _refusal;

    /// <summary>Every call so far, in order; calls that went to the running kernel without concerning VFIO are not in it.</summary>
    public IReadOnlyList<SimCall> Calls => Locked<IReadOnlyList<SimCall>>(() => [.. _calls]);

    /// <summary>Calls so far that <see cref="FailAt"/> counts.</summary>
    public int FailableCalls => Locked(() => _calls.Count(c => IsFailable(c.Name)));

    /// <summary>DMA accesses so far that the IOMMU refused, or that a device made which may not.</summary>
    public IReadOnlyList<DmaFault> Faults => Locked<IReadOnlyList<DmaFault>>(() => [.. _faults]);

    /// <summary>How often a call was made, failed ones included.</summary>
    public int Count(string call) => Locked(() => _calls.Count(c => c.Name == call));

    /// <summary>Makes the <paramref name="n"/>th call from now fail, having done nothing; 1 is the next. Calls of close and munmap
    /// are not counted: Linux releases what they are given whatever they return.</summary>
    /// <param name="n">Which call.</param>
    /// <param name="errno">What it fails with.</param>
    /// <param name="call">Count only calls of this name, such as <c>VFIO_IOMMU_MAP_DMA</c>.</param>
    public void FailAt(int n, Errno errno, string? call = null)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(n, 1);
        Locked(() => _failures.Add((n, call, errno)));
    }

    /// <summary>Makes every MAP_DMA fail whose host range touches this page, as a page that cannot be pinned.</summary>
    public void FailMapsTouching(HostAddress page, Errno errno = Errno.EFAULT) =>
        Locked(() => _badPages.Add((new HostAddress(page.Value & ~(UserMemory.PageSize - 1)), errno)));

    /// <summary>Holds up the next call of a name, before it does anything, until the test lets it go.</summary>
    /// <param name="call">The call, such as <c>VFIO_GROUP_GET_DEVICE_FD</c>.</param>
    /// <param name="arguments">Only a call whose arguments read like that; any for null.</param>
    public SimHold HoldAt(string call, string? arguments = null)
    {
        var hold = new SimHold();
        Locked(() => _holds.Add((call, arguments, hold)));
        return hold;
    }

    /// <summary>Takes back every failure that was asked for.</summary>
    public void FailNothing() => Locked(() =>
    {
        _failures.Clear();
        _badPages.Clear();
    });

    /// <summary>The faults so far, which then no longer fail the test.</summary>
    public IReadOnlyList<DmaFault> TakeFaults() => Locked<IReadOnlyList<DmaFault>>(() =>
    {
        DmaFault[] faults = [.. _faults];
        _faults.Clear();
        return faults;
    });

    /// <summary>Asserts that no device reached for what it may not.</summary>
    public void AssertNoFaults() => AssertNothing([.. Faults.Select(f => f.ToString())]);

    /// <summary>Asserts that nothing is open, mapped or pinned, and no fault recorded.</summary>
    public void AssertNothingLeft() => AssertNothing(Leaks());

    internal void Record(DmaFault fault) => Locked(() => _faults.Add(fault));

    private static bool IsFailable(string call) => call is not ("close" or "munmap");

    private static void AssertNothing(IReadOnlyList<string> left) =>
        Assert.IsEmpty(left, $"left in the simulated kernel:\n  {string.Join("\n  ", left)}\n");

    private IReadOnlyList<string> Leaks() => Locked<IReadOnlyList<string>>(() =>
    [
        .. _files.Select(f => $"descriptor {f.Key}: {f.Value.Name}"),
        .. _iommus.SelectMany(i => i.Mappings).Select(m => $"mapping {m}"),
        .. _deviceMaps.Select(m => $"device memory mapped at 0x{m.Key:x}, {m.Value} bytes"),
        .. LockedPages == 0 ? (string[])[] : [$"{LockedPages} pages pinned"],
        .. _faults.Select(f => f.ToString()),
    ]);

    private bool IsRefused(uint request, void* argument)
    {
        if (request != vfio.VFIO_IOMMU_MAP_DMA || _badPages.Count == 0
            || !UserMemory.TryRead(argument, out vfio_iommu_type1_dma_map map))
        {
            return false;
        }

        foreach ((HostAddress page, Errno errno) in _badPages)
        {
            if (map.vaddr < page.Value + UserMemory.PageSize
                && (map.vaddr > page.Value || page.Value - map.vaddr < map.size))
            {
                _refusal = errno;
                return true;
            }
        }

        return false;
    }

    private long Call(string name, string arguments, Func<long> function)
    {
        WaitIfHeld(name, arguments);
        long result = Injected(name, arguments) is { } errno ? -(long)errno : function();
        Log(name, arguments, result);
        return result;
    }

    // Not under the lock: others go on meanwhile.
    private void WaitIfHeld(string name, string arguments) => Locked(() =>
    {
        int index = _holds.FindIndex(h => h.Call == name && (h.Arguments is null || h.Arguments == arguments));
        if (index < 0)
        {
            return null;
        }

        SimHold hold = _holds[index].Hold;
        _holds.RemoveAt(index);
        return hold;
    })?.Arrive();

    private Errno? Injected(string name, string arguments) => Locked(() =>
    {
        Errno? injected = null;
        for (int i = 0; i < _failures.Count && IsFailable(name); i++)
        {
            (int left, string? only, Errno errno) = _failures[i];
            if (left > 0 && (only is null || only == name))
            {
                _failures[i] = (left - 1, only, errno);
                injected = left == 1 ? errno : injected;
            }
        }

        return injected;
    });

    private void Log(string name, string arguments, long result) => Locked(() => _calls.Add(new SimCall(name, arguments, result)));
}
