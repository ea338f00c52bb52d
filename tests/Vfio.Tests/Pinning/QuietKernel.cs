using Vfio.Linux;

namespace Vfio.Tests;

/// <summary>Says yes to every call and allocates nothing, so that what is measured is ours.</summary>
internal sealed unsafe class QuietKernel : IKernel
{
    /// <summary>Runs in each ioctl.</summary>
    public Action? Called { get; set; }

    public int Open(string path, int flags) => 3;

    public int Close(int descriptor) => 0;

    public int Ioctl(int descriptor, uint request, void* argument)
    {
        Called?.Invoke();
        return 0;
    }

    public nint Mmap(nuint length, int protection, int flags, int descriptor, long offset) => -(nint)(int)Errno.ENODEV;

    public int Munmap(nint address, nuint length) => 0;

    public nint Pread(int descriptor, Span<byte> buffer, long offset) => 0;

    public nint Pwrite(int descriptor, ReadOnlySpan<byte> buffer, long offset) => 0;
}
