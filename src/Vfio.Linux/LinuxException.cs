namespace Vfio.Linux;

/// <summary>A call to the kernel failed. The message is whole in itself: the call, the errno, what it was about, the cause and
/// the cure where they are known.</summary>
/// <remarks>The shape is <c>CALL: ERRNO (n): detail. Cause: … Cure: …</c>.</remarks>
public class LinuxException : IOException
{
    /// <summary>Makes the exception for <paramref name="call"/> that failed with <paramref name="errno"/>.</summary>
    /// <param name="call">The call as the kernel names it, such as <c>VFIO_IOMMU_MAP_DMA</c> or <c>mmap</c>.</param>
    /// <param name="errno">The error number, positive.</param>
    /// <param name="detail">What the call was about: the path, the range, the device. May be empty.</param>
    /// <param name="cause">Why it failed, where that is known. Without cause and cure, what <see cref="SystemFailure"/> says.</param>
    /// <param name="cure">What the user can do about it, where that is known.</param>
    public LinuxException(string call, Errno errno, string detail, string? cause = null, string? cure = null)
        : this(call, errno, detail, cause, cure, cause is null && cure is null ? SystemFailure.Find(call, errno) : null)
    {
    }

    private LinuxException(string call, Errno errno, string detail, string? cause, string? cure, SystemFailure? known)
        : base(Compose(call, errno, detail, cause ?? known?.Cause, cure ?? known?.Cure))
    {
        Call = call;
        Errno = errno;
        Detail = detail;
        Cause = cause ?? known?.Cause;
        Cure = cure ?? known?.Cure;
        HResult = (int)errno;
    }

    /// <summary>The call as the kernel names it.</summary>
    public string Call { get; }

    /// <summary>The error number.</summary>
    public Errno Errno { get; }

    /// <summary>What the call was about.</summary>
    public string Detail { get; }

    /// <summary>Why it failed, or null where that is not known.</summary>
    public string? Cause { get; }

    /// <summary>What the user can do about it, or null where that is not known.</summary>
    public string? Cure { get; }

    private static string Compose(string call, Errno errno, string detail, string? cause, string? cure)
    {
        string message = $"{call}: {errno} ({(int)errno})";
        if (detail.Length > 0)
        {
            message += $": {detail}";
        }

        if (cause is not null)
        {
            message += $". Cause: {cause}";
        }

        return cure is null ? message : $"{message}. Cure: {cure}";
    }
}
