using System.Numerics;
using Vfio.Linux;

namespace Vfio;

/// <summary>The memory of one segment: a memfd mapped shared, or, for transparent huge pages on a kernel that gives a memfd none,
/// private memory.</summary>
internal sealed class PoolMemory : IDisposable
{
    private readonly MappedMemory _mapping;

    private PoolMemory(FileDescriptor? file, MappedMemory mapping, Errno nodeRefused)
    {
        File = file;
        _mapping = mapping;
        NodeRefused = nodeRefused;
        Address = new HostAddress((ulong)mapping.Address);
    }

    /// <summary>The memfd; null where the memory has none and so cannot be shared.</summary>
    public FileDescriptor? File { get; }

    public HostAddress Address { get; }

    public ulong Length => _mapping.Length;

    /// <summary>Why the kernel would not prefer the node that was asked for.</summary>
    public Errno NodeRefused { get; }

    /// <param name="name">The pool's.</param>
    /// <param name="length">Bytes, whole pages.</param>
    /// <param name="backing">The pages.</param>
    /// <param name="grain">Where maps will be cut, 0 for nowhere: memory starts at a multiple, so that there are as many as were planned.</param>
    /// <param name="node">The NUMA node to prefer, or null.</param>
    /// <param name="sysfs">Where <c>/sys</c> is.</param>
    public static PoolMemory Create(string name, ulong length, MemoryBacking backing, ulong grain, int? node, Sysfs sysfs)
    {
        FileDescriptor? file = null;
        MappedMemory? mapping = null;
        try
        {
            bool hasFile = backing != MemoryBacking.Transparent || SharedCanBeTransparent(sysfs);
            file = hasFile ? MemoryFile.Create($"vfiopin-{name}", length, backing.IsReserved() ? backing.PageSize() : 0) : null;
            ulong alignment = Math.Max(backing.PageSize(), Math.Min(grain, BitOperations.RoundUpToPowerOf2(length)));
            mapping = MappedMemory.MapAligned(file, length, backing.PageSize(), alignment);
            // A forked child must not turn pages that a device has pinned into copies.
            mapping.ExcludeFromFork();
            switch (backing)
            {
                case MemoryBacking.Transparent:
                    mapping.Advise(Mman.MADV_HUGEPAGE, "MADV_HUGEPAGE", 0, length);
                    break;
                case MemoryBacking.Pages4KiB:
                    Forbid(mapping);
                    break;
                default:
                    break;
            }

            Errno refused = node is null ? Errno.None : mapping.PreferNode(node.Value);
            return new PoolMemory(file, mapping, refused);
        }
        catch (LinuxException e) when (e.Cause is null && e.Errno == Errno.ENOMEM && backing.IsReserved())
        {
            Forget();
            throw new LinuxException(e.Call, e.Errno, $"pool {name}: {e.Detail}", "the huge pages that were free have been taken since, or a cgroup limits them",
                $"vfiopin doctor shows what is free; look at the hugetlb limits of this cgroup");
        }
        catch
        {
            Forget();
            throw;
        }

        void Forget()
        {
            mapping?.Dispose();
            file?.Dispose();
        }
    }

    /// <summary>Gives the end back to the system.</summary>
    public void Truncate(ulong length) => _mapping.Truncate(length, File is not null);

    public void Dispose()
    {
        _mapping.Dispose();
        File?.Dispose();
    }

    // A memfd gets transparent huge pages only as the system's shmem_enabled allows; "advise" and "within_size" go by MADV_HUGEPAGE.
    private static bool SharedCanBeTransparent(Sysfs sysfs)
    {
        string setting = sysfs.TryRead("/sys/kernel/mm/transparent_hugepage/shmem_enabled") ?? string.Empty;
        return !setting.Contains("[never]", StringComparison.Ordinal) && !setting.Contains("[deny]", StringComparison.Ordinal) && setting.Length > 0;
    }

    // So that 4 KiB pages are what one gets who asks for them. A kernel without transparent huge pages says EINVAL, and has none to forbid.
    private static void Forbid(MappedMemory mapping)
    {
        try
        {
            mapping.Advise(Mman.MADV_NOHUGEPAGE, "MADV_NOHUGEPAGE", 0, mapping.Length);
        }
        catch (LinuxException e) when (e.Errno == Errno.EINVAL)
        {
            return;
        }
    }
}
