using System.Runtime.InteropServices;

namespace Vfio.Linux;

// ioctl(2). Variadic in C; a fixed signature is safe on x86-64 and Linux arm64, where variadic integers and pointers travel in
// the same registers.
internal static unsafe partial class LibC
{
    [LibraryImport("libc", SetLastError = true)]
    public static partial int ioctl(int fd, nuint request, void* argp);
}
