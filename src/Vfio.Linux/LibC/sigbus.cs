using System.Diagnostics.CodeAnalysis;
using System.Runtime.InteropServices;

namespace Vfio.Linux;

// native/sigbus/sigbus.c: the only native code of the libraries, as a signal handler cannot be written in C#.
[SuppressMessage("Security", "CA5393", Justification = "beside the assembly: whoever can write there can replace the assembly")]
internal static unsafe partial class Sigbus
{
    private const string Library = "vfiopin_sigbus";

    [LibraryImport(Library, SetLastError = true)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int vfiopin_sigbus_add(nint first, nuint length, nuint page, void* peer, nint* range);

    [LibraryImport(Library, SetLastError = true)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial void vfiopin_sigbus_remove(nint range);
}
