using System.Runtime.InteropServices;

namespace Vfio.Linux;

// eventfd(2)
internal static partial class LibC
{
    [LibraryImport("libc", SetLastError = true)]
    public static partial int eventfd(uint initval, int flags);
}

[Header("sys/eventfd.h")]
internal static class EventFdFlags
{
    public const int EFD_CLOEXEC = 0x80000;
    public const int EFD_NONBLOCK = 0x800;
}
