using Vfio.Linux;

namespace Vfio.Testing;

/// <summary>What a simulated descriptor refers to. Called under the kernel's lock, except <see cref="Read"/> and
/// <see cref="Write"/>, which reach device models and must not hold it.</summary>
internal abstract unsafe class SimFile
{
    public abstract string Name { get; }

    public abstract long Ioctl(uint request, void* argument);

    public virtual nint Read(Span<byte> buffer, long offset) => -(int)Errno.EINVAL;

    public virtual nint Write(ReadOnlySpan<byte> buffer, long offset) => -(int)Errno.EINVAL;

    public virtual nint Map(nuint length, int protection, int flags, long offset) => -(int)Errno.ENODEV;

    /// <summary>The last reference is gone.</summary>
    public abstract void Close();
}
