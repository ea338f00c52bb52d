using Vfio.Linux;

namespace Vfio.Testing;

/// <summary>Memory that ends (or starts) at a page that nobody may touch, so that an access beyond it ends the test run at the
/// very instruction. The other end has a guard page too, at most a page away.</summary>
public sealed unsafe class GuardedMemory : IDisposable
{
    private const int Page = 4096;
    private readonly nint _mapping;
    private readonly nuint _mapped;

    /// <param name="length">Bytes.</param>
    /// <param name="atStart">Flush with the guard before it instead of the one behind it.</param>
    /// <param name="alignment">Of the first byte; bytes between the memory and the guard behind it are fewer than this.</param>
    public GuardedMemory(int length, bool atStart = false, int alignment = 16)
    {
        int pages = (length + Page - 1) / Page;
        _mapped = (nuint)(pages + 2) * Page;
        _mapping = LibC.mmap(0, _mapped, Mman.PROT_NONE, Mman.MAP_PRIVATE | Mman.MAP_ANONYMOUS, -1, 0);
        if (_mapping == -1 || LibC.mprotect(_mapping + Page, (nuint)pages * Page, Mman.PROT_READ | Mman.PROT_WRITE) != 0)
        {
            throw new LinuxException("mmap", (Errno)LibC.errno, $"{length} bytes between guard pages");
        }

        int start = atStart ? 0 : ((pages * Page) - length) / alignment * alignment;
        Base = (byte*)(_mapping + Page + start);
        Length = length;
    }

    public byte* Base { get; }

    public int Length { get; }

    public HostAddress Address => new((ulong)Base);

    public Span<byte> Span => new(Base, Length);

    public void Dispose() => _ = LibC.munmap(_mapping, _mapped);
}
