namespace Vfio.Linux;

/// <summary>The descriptors that came with a message (SCM_RIGHTS). Owns each until it is taken; disposing closes the rest, so
/// that a message that nobody wanted leaks nothing.</summary>
/// <remarks>For one thread. May be filled again after <see cref="Dispose"/>.</remarks>
public sealed class ReceivedDescriptors : IDisposable
{
    private readonly List<FileDescriptor?> _descriptors = [];

    /// <summary>How many came, taken ones included.</summary>
    public int Count => _descriptors.Count;

    /// <summary>True when the kernel could not hand over all that were sent: this process has no descriptor left
    /// (RLIMIT_NOFILE), or more were sent than fit.</summary>
    public bool Truncated { get; internal set; }

    /// <summary>Takes one over; the caller closes it.</summary>
    /// <param name="index">Which, from 0.</param>
    /// <returns>The descriptor.</returns>
    /// <exception cref="ArgumentOutOfRangeException">There is none with this index.</exception>
    /// <exception cref="InvalidOperationException">It was taken before.</exception>
    public FileDescriptor Take(int index)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(index, Count);
        ArgumentOutOfRangeException.ThrowIfNegative(index);
        FileDescriptor descriptor = _descriptors[index]
            ?? throw new InvalidOperationException($"descriptor {index} of the message was taken already");
        _descriptors[index] = null;
        return descriptor;
    }

    /// <summary>Closes what was not taken and forgets the rest.</summary>
    public void Dispose()
    {
        foreach (FileDescriptor? descriptor in _descriptors)
        {
            descriptor?.Dispose();
        }

        _descriptors.Clear();
        Truncated = false;
    }

    internal void Add(int number) => _descriptors.Add(new FileDescriptor(LinuxKernel.Instance, number));
}
