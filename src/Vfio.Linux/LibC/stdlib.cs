using System.Runtime.InteropServices;

namespace Vfio.Linux;

// setenv(3)
internal static partial class LibC
{
    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    public static partial int setenv(string name, string value, int overwrite);
}
