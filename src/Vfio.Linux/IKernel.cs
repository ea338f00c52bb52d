namespace Vfio.Linux;

/// <summary>The calls that need VFIO hardware or privilege, and nothing else: the one seam for tests. Every member returns
/// a result that is zero or more, or a negated error number; none throws and none leaves state in the thread.</summary>
/// <remarks>Implementations retry EINTR where the call may be repeated safely, and may be called from any thread.</remarks>
public interface IKernel
{
    /// <summary>open(2), always with O_CLOEXEC.</summary>
    /// <param name="path">The file.</param>
    /// <param name="flags">Access mode and flags as in <c>fcntl.h</c>.</param>
    /// <returns>The descriptor, or a negated errno.</returns>
    int Open(string path, int flags);

    /// <summary>close(2). The descriptor is gone whatever is returned.</summary>
    /// <param name="descriptor">The descriptor.</param>
    /// <returns>0, or a negated errno.</returns>
    int Close(int descriptor);

    /// <summary>ioctl(2).</summary>
    /// <param name="descriptor">The descriptor.</param>
    /// <param name="request">The request's number.</param>
    /// <param name="argument">The structure it takes, or the integer that it takes in a pointer's place.</param>
    /// <returns>What the request returns (zero or more), or a negated errno.</returns>
    unsafe int Ioctl(int descriptor, uint request, void* argument);

    /// <summary>mmap(2) at an address of the kernel's choice.</summary>
    /// <param name="length">Bytes, a multiple of the mapping's page size.</param>
    /// <param name="protection">PROT_ bits.</param>
    /// <param name="flags">MAP_ bits.</param>
    /// <param name="descriptor">The file, or -1.</param>
    /// <param name="offset">Where in the file, a multiple of the page size.</param>
    /// <returns>The address, or a negated errno (values from -4095 to -1).</returns>
    nint Mmap(nuint length, int protection, int flags, int descriptor, long offset);

    /// <summary>munmap(2).</summary>
    /// <param name="address">The mapping's first byte.</param>
    /// <param name="length">Its length in bytes.</param>
    /// <returns>0, or a negated errno.</returns>
    int Munmap(nint address, nuint length);

    /// <summary>pread(2).</summary>
    /// <param name="descriptor">The descriptor.</param>
    /// <param name="buffer">Where the bytes go.</param>
    /// <param name="offset">Where in the file they start.</param>
    /// <returns>The bytes read, or a negated errno.</returns>
    nint Pread(int descriptor, Span<byte> buffer, long offset);

    /// <summary>pwrite(2).</summary>
    /// <param name="descriptor">The descriptor.</param>
    /// <param name="buffer">The bytes.</param>
    /// <param name="offset">Where in the file they go.</param>
    /// <returns>The bytes written, or a negated errno.</returns>
    nint Pwrite(int descriptor, ReadOnlySpan<byte> buffer, long offset);
}
