using Vfio.Linux;

namespace Vfio.Testing;

/// <summary>What copy_from_user, copy_to_user and pin_user_pages find in this process: real memory or EFAULT. Asks the running
/// kernel, so that a hole or a read-only page is one here too.</summary>
internal static unsafe class UserMemory
{
    public const ulong PageSize = 4096;

    // Above it are no user addresses (x86-64 with four levels of page tables).
    private const ulong AddressLimit = 1ul << 47;

    /// <summary>What access_ok says: whether the range can be a user's at all.</summary>
    public static bool IsUserRange(ulong address, ulong length) => length <= AddressLimit && address <= AddressLimit - length;

    public static bool CanRead(ulong address, ulong length) => Populate(address, length, Mman.MADV_POPULATE_READ);

    public static bool CanWrite(ulong address, ulong length) => Populate(address, length, Mman.MADV_POPULATE_WRITE);

    public static bool TryRead<T>(void* address, out T value)
        where T : unmanaged
    {
        bool readable = CanRead((ulong)address, (ulong)sizeof(T));
        // SAFETY: the running kernel has just faulted these bytes in.
        value = readable ? *(T*)address : default;
        return readable;
    }

    public static bool TryRead(ulong address, Span<byte> bytes)
    {
        bool readable = CanRead(address, (ulong)bytes.Length);
        if (readable)
        {
            // SAFETY: as above.
            new ReadOnlySpan<byte>((void*)address, bytes.Length).CopyTo(bytes);
        }

        return readable;
    }

    public static bool TryWrite(ulong address, ReadOnlySpan<byte> bytes)
    {
        bool writable = CanWrite(address, (ulong)bytes.Length);
        if (writable)
        {
            // SAFETY: as above.
            bytes.CopyTo(new Span<byte>((void*)address, bytes.Length));
        }

        return writable;
    }

    // madvise(2) walks the pages as pinning does: get_user_pages, for reading or for writing.
    private static bool Populate(ulong address, ulong length, int advice)
    {
        if (length == 0)
        {
            return true;
        }

        if (!IsUserRange(address, length))
        {
            return false;
        }

        ulong first = address & ~(PageSize - 1);
        ulong end = (address + length + PageSize - 1) & ~(PageSize - 1);
        int result;
        do
        {
            result = LibC.madvise((nint)first, (nuint)(end - first), advice);
        }
        while (result < 0 && LibC.errno is (int)Errno.EINTR or (int)Errno.EAGAIN);
        return result == 0;
    }
}
