using System.Globalization;
using Vfio.Linux;

namespace Vfio.Testing;

/// <summary>A kernel with VFIO, of which the test says what is in it: groups, devices, limits, failures. Calls that are not VFIO's go
/// to the running kernel, so memory, files and eventfds are real.</summary>
/// <remarks>Thread-safe. Disposing it asserts that nothing is left: no descriptor, mapping, pinned page or device mmap, and no
/// DMA fault that <see cref="TakeFaults"/> did not take. Dispose it after everything that was opened through it.</remarks>
public sealed unsafe partial class SimKernel : IKernel, IDisposable
{
    private const string Container = "/dev/vfio/vfio";
    private const string GroupPrefix = "/dev/vfio/";

    // Out of the reach of real descriptors: a real call on one fails with EBADF.
    private const int FirstDescriptor = 1_000_000;

    private readonly Lock _gate = new();
    private readonly Dictionary<int, SimFile> _files = [];
    private readonly Dictionary<int, SimGroup> _groups = [];
    private readonly Dictionary<nint, nuint> _deviceMaps = [];
    private readonly List<SimIommu> _iommus = [];
    private int _nextDescriptor = FirstDescriptor;

    public SimKernel(KernelBehaviour? behaviour = null) => Behaviour = behaviour ?? KernelBehaviour.Linux61;

    public KernelBehaviour Behaviour { get; }

    /// <summary>False: there is no <c>/dev/vfio/vfio</c>.</summary>
    public bool HasVfio { get; init; } = true;

    /// <summary>False: attaching a group fails with EPERM, as without allow_unsafe_interrupts.</summary>
    public bool HasInterruptRemapping { get; init; } = true;

    /// <summary>False: a kernel that knows version 1 only.</summary>
    public bool HasType1Version2 { get; init; } = true;

    /// <summary>The IOMMU's page sizes, a bit each: 4 KiB, 2 MiB and 1 GiB, as QEMU's intel-iommu has.</summary>
    public ulong PageSizes { get; init; } = 0x4020_1000;

    /// <summary>The module parameter dma_entry_limit, taken over by each container at VFIO_SET_IOMMU.</summary>
    public uint EntryLimit { get; set; } = 65535;

    /// <summary>Bytes that may be locked, or null for a process with CAP_IPC_LOCK.</summary>
    public ulong? MemlockLimit { get; set; }

    /// <summary>Pages of 4 KiB that count as locked now.</summary>
    public ulong LockedPages { get; private set; }

    /// <summary>The live mappings of all containers.</summary>
    public IReadOnlyList<SimMapping> Mappings => Locked<IReadOnlyList<SimMapping>>(() => [.. _iommus.SelectMany(i => i.Mappings)]);

    /// <summary>The group of that number; made when it is asked for first.</summary>
    public SimGroup Group(int number) => Locked(() =>
    {
        if (!_groups.TryGetValue(number, out SimGroup? group))
        {
            group = new SimGroup(this, number);
            _groups.Add(number, group);
        }

        return group;
    });

    /// <summary>Plugs a device into a group.</summary>
    public void Add(SimPciDevice device, int group)
    {
        ArgumentNullException.ThrowIfNull(device);
        SimGroup owner = Group(group);
        Locked(() => owner.Add(device));
    }

    public int Open(string path, int flags) =>
        (int)Call("open", path, () => path == Container || path.StartsWith(GroupPrefix, StringComparison.Ordinal)
            ? OpenDevice(path)
            : LinuxKernel.Instance.Open(path, flags));

    public int Close(int descriptor) => (int)Call("close", $"{descriptor}", () => Locked(() =>
    {
        if (descriptor < FirstDescriptor)
        {
            return LinuxKernel.Instance.Close(descriptor);
        }

        if (!_files.Remove(descriptor, out SimFile? file))
        {
            return -(int)Errno.EBADF;
        }

        file.Close();
        return 0;
    }));

    public int Ioctl(int descriptor, uint request, void* argument)
    {
        if (descriptor < FirstDescriptor)
        {
            return LinuxKernel.Instance.Ioctl(descriptor, request, argument);
        }

        var pointer = (nint)argument;
        return (int)Call(IoctlNames.Of(request, File(descriptor)), IoctlArguments.Describe(request, argument), () => Locked(() =>
            IsRefused(request, (void*)pointer) ? -(long)_refusal
            : File(descriptor)?.Ioctl(request, (void*)pointer) ?? -(long)Errno.EBADF));
    }

    public nint Mmap(nuint length, int protection, int flags, int descriptor, long offset)
    {
        if (descriptor < FirstDescriptor)
        {
            return LinuxKernel.Instance.Mmap(length, protection, flags, descriptor, offset);
        }

        return (nint)Call("mmap", $"{length} bytes, offset 0x{offset:x} of {File(descriptor)?.Name}", () => Locked(() =>
        {
            nint address = File(descriptor)?.Map(length, protection, flags, offset) ?? -(nint)(int)Errno.EBADF;
            if (address is > 0 or < -4095)
            {
                _deviceMaps.Add(address, length);
            }

            return (long)address;
        }));
    }

    public int Munmap(nint address, nuint length)
    {
        bool isDevice = Locked(() => _deviceMaps.Remove(address));
        return isDevice
            ? (int)Call("munmap", $"0x{address:x}, {length} bytes", () => LinuxKernel.Instance.Munmap(address, length))
            : LinuxKernel.Instance.Munmap(address, length);
    }

    // Neither holds the lock: they reach device models, which have locks of their own.
    public nint Pread(int descriptor, Span<byte> buffer, long offset)
    {
        if (descriptor < FirstDescriptor)
        {
            return LinuxKernel.Instance.Pread(descriptor, buffer, offset);
        }

        SimFile? file = File(descriptor);
        string arguments = string.Create(CultureInfo.InvariantCulture, $"{buffer.Length} bytes, offset 0x{offset:x} of {file?.Name}");
        nint result = Injected("pread", arguments) is { } errno ? -(nint)(int)errno
            : file?.Read(buffer, offset) ?? -(nint)(int)Errno.EBADF;
        Log("pread", arguments, result);
        return result;
    }

    public nint Pwrite(int descriptor, ReadOnlySpan<byte> buffer, long offset)
    {
        if (descriptor < FirstDescriptor)
        {
            return LinuxKernel.Instance.Pwrite(descriptor, buffer, offset);
        }

        SimFile? file = File(descriptor);
        string arguments = string.Create(
            CultureInfo.InvariantCulture, $"{Convert.ToHexString(buffer)}, offset 0x{offset:x} of {file?.Name}");
        nint result = Injected("pwrite", arguments) is { } errno ? -(nint)(int)errno
            : file?.Write(buffer, offset) ?? -(nint)(int)Errno.EBADF;
        Log("pwrite", arguments, result);
        return result;
    }

    public void Dispose()
    {
        IReadOnlyList<string> left = Leaks();
        Locked(() =>
        {
            foreach ((nint address, nuint length) in _deviceMaps)
            {
                _ = LinuxKernel.Instance.Munmap(address, length);
            }

            foreach (SimFile file in _files.Values)
            {
                file.Close();
            }

            _deviceMaps.Clear();
            _files.Clear();
        });
        // Not under the lock: a model may wait for its thread, which may be about to reach for memory.
        foreach (SimGroup group in _groups.Values)
        {
            group.Unplug();
        }

        AssertNothing(left);
    }

    /// <summary>Gives a file a descriptor.</summary>
    internal int Install(SimFile file)
    {
        _files.Add(_nextDescriptor, file);
        return _nextDescriptor++;
    }

    internal SimFile? File(int descriptor) => Locked(() => _files.GetValueOrDefault(descriptor));

    internal SimIommu AddIommu(bool isVersion2)
    {
        var iommu = new SimIommu(this, isVersion2);
        _iommus.Add(iommu);
        return iommu;
    }

    internal void RemoveIommu(SimIommu iommu)
    {
        iommu.Release();
        _iommus.Remove(iommu);
    }

    /// <summary>Guards the mappings: what a device was let through to stays while it is held.</summary>
    internal Lock Gate => _gate;

    internal T Locked<T>(Func<T> function)
    {
        lock (_gate)
        {
            return function();
        }
    }

    internal void Locked(Action action)
    {
        lock (_gate)
        {
            action();
        }
    }

    /// <summary>vfio_pin_pages_remote: page by page, first whether it is there and then whether it may be locked.</summary>
    internal Errno Pin(HostAddress address, ulong length, DmaAccess access, out ulong locked)
    {
        locked = 0;
        if (!UserMemory.IsUserRange(address.Value, length))
        {
            return Errno.EFAULT;
        }

        locked = CountedPages(address.Value, length);
        ulong allowed = MemlockLimit is { } limit ? (limit / UserMemory.PageSize) - Math.Min(LockedPages, limit / UserMemory.PageSize) : ulong.MaxValue;
        // Device memory is not counted; a range that has some is taken as all or nothing, which differs from the kernel only in
        // which of two errors comes first.
        ulong reached = locked > allowed ? Math.Min(length, (allowed + 1) * UserMemory.PageSize) : length;
        bool isThere = (access & DmaAccess.Write) != 0
            ? UserMemory.CanWrite(address.Value, reached)
            : UserMemory.CanRead(address.Value, reached);
        if (!isThere)
        {
            return Errno.EFAULT;
        }

        if (locked > allowed)
        {
            return Errno.ENOMEM;
        }

        LockedPages += locked;
        return Errno.None;
    }

    internal void Unpin(ulong locked) => LockedPages -= locked;

    private ulong CountedPages(ulong address, ulong length)
    {
        ulong counted = length;
        foreach ((nint start, nuint size) in _deviceMaps)
        {
            ulong first = Math.Max(address, (ulong)start);
            ulong end = Math.Min(address + length, (ulong)start + size);
            counted -= first < end ? end - first : 0;
        }

        return counted / UserMemory.PageSize;
    }

    private long OpenDevice(string path) => Locked(() =>
    {
        if (path == Container)
        {
            return HasVfio ? Install(new SimContainer(this)) : -(long)Errno.ENOENT;
        }

        return int.TryParse(path.AsSpan(GroupPrefix.Length), NumberStyles.None, CultureInfo.InvariantCulture, out int number)
            && _groups.TryGetValue(number, out SimGroup? group)
            ? group.Open()
            : -(long)Errno.ENOENT;
    });
}
