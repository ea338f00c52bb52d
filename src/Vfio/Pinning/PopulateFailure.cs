using Vfio.Linux;

namespace Vfio;

/// <summary>A piece of memory whose pages could not all be made ahead of pinning it, and why. What of it cannot be pinned either is for
/// the kernel to say when it is mapped, page by page: see <see cref="RegisteredMemory.Failures"/>.</summary>
/// <param name="Host">The piece.</param>
/// <param name="Errno">What madvise(2) said.</param>
/// <param name="Cause">Why.</param>
/// <param name="Cure">What to do about it.</param>
public sealed record PopulateFailure(HostRange Host, Errno Errno, string Cause, string Cure)
{
    /// <inheritdoc/>
    public override string ToString() => $"{Host}: {Errno} ({(int)Errno}): {Cause}";

    // madvise(2), MADV_POPULATE_WRITE.
    internal static PopulateFailure Of(HostRange host, Errno errno) => errno switch
    {
        Errno.ENOMEM => new(host, errno, "part of it is mapped to nothing, or memory ran out", "map all of it first; look for memory pressure: dmesg, /proc/meminfo"),
        Errno.EFAULT => new(host, errno, "a page of it cannot be had: it lies behind the end of its file, or no huge page is left for it",
            "make the file as long as the mapping; look for free huge pages: vfiopin doctor"),
        Errno.EHWPOISON => new(host, errno, "a page of it has a memory error", "take other memory, and look at dmesg for the broken one"),
        _ => new(host, errno, "its pages could not be made", "look at dmesg"),
    };
}
