using System.Diagnostics.CodeAnalysis;
using System.Runtime.InteropServices;

namespace Vfio.Linux;

// native/library: the only native code of the libraries, what cannot be written in C#.
[SuppressMessage("Security", "CA5393", Justification = "beside the assembly: whoever can write there can replace the assembly")]
[SuppressMessage("ApiDesign", "RS0030", Justification = "what the generator makes of a call that needs no marshalling")]
internal static unsafe partial class NativeCode
{
    private const string Library = "vfiopin_native";

    [LibraryImport(Library, SetLastError = true)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int vfiopin_sigbus_add(nint first, nuint length, nuint page, void* peer, nint* range);

    [LibraryImport(Library, SetLastError = true)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial void vfiopin_sigbus_remove(nint range);

    // The result is zero or more, or a negated errno; EINTR is tried again.
    [LibraryImport(Library)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial int vfiopin_ioctl(int descriptor, nuint request, void* argument);

    // A few instructions, which the usual way into native code would take longer than.
    [LibraryImport(Library)]
    [SuppressGCTransition]
    [DefaultDllImportSearchPaths(DllImportSearchPath.AssemblyDirectory)]
    public static partial void vfiopin_prefetch_for_write(nint* lines, nuint count);
}
